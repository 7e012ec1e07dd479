//! Rust source split into code and comments, line by line, without a parser.

/// One source file.
pub(super) struct RustFile {
    pub(super) path: String,
    pub(super) lines: Vec<Line>,
}

/// One line: `code` has comments and the contents of literals blanked out, `comment` has only
/// the text of comments.
pub(super) struct Line {
    pub(super) code: String,
    pub(super) comment: String,
    /// In an item under `#[cfg(test)]`, or in a file that only tests and benches compile.
    pub(super) in_test: bool,
}

impl RustFile {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let tests = test_lines(&code);
        let test_file = is_test_file(path);
        let lines = code.lines().zip(comments.lines()).enumerate();
        let lines = lines
            .map(|(number, (code, comment))| Line {
                code: code.to_owned(),
                comment: comment.trim().to_owned(),
                in_test: test_file || tests.iter().any(|lines| lines.contains(&number)),
            })
            .collect();
        Self {
            path: path.to_owned(),
            lines,
        }
    }

    /// The folder name of the crate, or `xtask`.
    pub(super) fn krate(&self) -> &str {
        let rest = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        rest.split('/').next().unwrap_or_default()
    }

    /// A file that is the root of a crate of its own: a library, a program, a test, an example.
    pub(super) fn is_crate_root(&self) -> bool {
        let parts: Vec<&str> = self.path.rsplit('/').collect();
        match parts.as_slice() {
            ["lib.rs" | "main.rs", "src", ..] => true,
            [_, "tests" | "examples" | "benches", krate, ..] => *krate == self.krate(),
            ["main.rs", _, "tests" | "examples" | "benches", ..] | [_, "bin", "src", ..] => true,
            _ => false,
        }
    }

    /// Every line whose code has `word` as a whole word.
    pub(super) fn lines_with<'a>(
        &'a self,
        word: &'a str,
    ) -> impl Iterator<Item = (usize, &'a Line)> + 'a {
        self.lines
            .iter()
            .enumerate()
            .filter(move |(_, line)| has_word(&line.code, word))
    }
}

/// Whether `word` stands in `code` and is not part of a longer identifier.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_identifier) && !after.is_some_and(is_identifier)
    })
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_test_file(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

/// The lines of every item that stands under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_lines(code: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let starts = code
        .match_indices("#[cfg(test)]")
        .chain(code.match_indices("#[cfg(all(test"));
    starts
        .map(|(start, _)| line_of(code, start)..=line_of(code, item_end(code, start)))
        .collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count()
}

/// Where the item that starts at `start` ends: at its closing brace, or at its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0usize;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return start + at,
            '}' => depth -= 1,
            ';' if depth == 0 => return start + at,
            _ => {}
        }
    }
    code.len()
}

#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

/// Splits `text` into its code and its comments; both keep the line breaks of `text`.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let (next, length) = step(state, rest, at.checked_sub(1).map(|before| chars[before]));
        let comment = is_comment(state) || is_comment(next);
        let shown = matches!((state, next), (State::Code, State::Code)) && length == 1;
        for &c in &rest[..length] {
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if shown { c } else { blank });
            comments.push(if comment { c } else { blank });
        }
        state = next;
        at += length;
    }
    (code, comments)
}

fn is_comment(state: State) -> bool {
    matches!(state, State::LineComment | State::BlockComment { .. })
}

/// The state after the next token and the token's length in characters.
fn step(state: State, rest: &[char], before: Option<char>) -> (State, usize) {
    match (state, rest) {
        (State::Code, ['/', '/', ..]) => (State::LineComment, 2),
        (State::Code, ['/', '*', ..]) => (State::BlockComment { depth: 1 }, 2),
        (State::Code, ['"', ..]) => (State::Text, 1),
        (State::Code, ['\'', '\\', _, tail @ ..]) => {
            let close = tail.iter().position(|&c| c == '\'').unwrap_or(0);
            (State::Code, close + 4)
        }
        (State::Code, ['\'', _, '\'', ..]) => (State::Code, 3),
        (State::Code, ['r', tail @ ..]) if !before.is_some_and(is_name_before_raw) => {
            let hashes = tail.iter().take_while(|&&c| c == '#').count();
            match tail.get(hashes) {
                Some('"') => (State::RawText { hashes }, hashes + 2),
                _ => (State::Code, 1),
            }
        }
        (State::LineComment, ['\n', ..]) => (State::Code, 1),
        (State::BlockComment { depth }, ['/', '*', ..]) => {
            (State::BlockComment { depth: depth + 1 }, 2)
        }
        (State::BlockComment { depth: 1 }, ['*', '/', ..]) => (State::Code, 2),
        (State::BlockComment { depth }, ['*', '/', ..]) => {
            (State::BlockComment { depth: depth - 1 }, 2)
        }
        (State::Text, ['\\', _, ..]) => (State::Text, 2),
        (State::Text, ['"', ..]) => (State::Code, 1),
        (State::RawText { hashes }, ['"', tail @ ..])
            if tail.iter().take_while(|&&c| c == '#').count() >= hashes =>
        {
            (State::Code, hashes + 1)
        }
        _ => (state, 1),
    }
}

/// `br"…"` and `cr"…"` are raw too; any other identifier that ends in `r` is none.
fn is_name_before_raw(c: char) -> bool {
    is_identifier(c) && c != 'b' && c != 'c'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text).0
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        assert_eq!(code("a // unsafe\nb"), "a          \nb");
        assert_eq!(code("a /* x /* y */ z */ b").replace(' ', ""), "ab");
        assert_eq!(code("f(\"unsafe\")").replace(' ', ""), "f()");
        assert_eq!(code("f(\"a\\\"unsafe\")").replace(' ', ""), "f()");
        assert_eq!(
            code("f(r#\"un\"safe\"#, br\"x\", g)").replace(' ', ""),
            "f(,b,g)"
        );
    }

    #[test]
    fn quotes_of_characters_and_lifetimes_open_no_string() {
        assert_eq!(code("'\"' x").trim(), "x");
        assert_eq!(code("'\\'' x").trim(), "x");
        assert_eq!(code("'\\u{1F600}' x").trim(), "x");
        assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(code("for \"x\" in").replace(' ', ""), "forin");
    }

    #[test]
    fn line_breaks_stay() {
        let text = "a\n/* b\nc */ \"d\ne\"\nf // g\n";
        let (code, comments) = split(text);
        assert_eq!(code.matches('\n').count(), 5);
        assert_eq!(comments.matches('\n').count(), 5);
        assert_eq!(comments.lines().nth(4), Some("  // g"));
    }

    #[test]
    fn test_items_are_marked_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n";
        let file = RustFile::new("crates/x/src/lib.rs", text);
        let marks: Vec<bool> = file.lines.iter().map(|line| line.in_test).collect();
        assert_eq!(marks, [false, true, true, true, true, false]);
    }

    #[test]
    fn test_files_are_tests_throughout() {
        assert!(RustFile::new("crates/x/tests/a.rs", "x\n").lines[0].in_test);
        assert!(RustFile::new("crates/x/src/a/tests.rs", "x\n").lines[0].in_test);
        assert!(!RustFile::new("crates/x/src/a.rs", "x\n").lines[0].in_test);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("allow(unsafe_code)", "unsafe"));
        assert!(has_word("x.unsafe_code unsafe", "unsafe"));
    }

    #[test]
    fn crate_roots_are_known() {
        let is_root = |path| RustFile::new(path, "").is_crate_root();
        assert!(is_root("crates/x/src/lib.rs"));
        assert!(is_root("xtask/src/main.rs"));
        assert!(is_root("crates/x/src/bin/y.rs"));
        assert!(is_root("crates/x/tests/y.rs"));
        assert!(!is_root("crates/x/src/y.rs"));
        assert!(!is_root("crates/x/tests/y/z.rs"));
    }
}
