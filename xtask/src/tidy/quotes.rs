//! Source quoted in Markdown is the source: a Rust block whose first line is `// path` shows the
//! file at that path, from its first line that is not documentation on.

use super::Finding;
use super::tree::{TextFile, Tree};

pub(super) fn check(page: &TextFile, tree: &Tree) -> Vec<Finding> {
    if !page.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, path, quoted) in quotes(&page.text) {
        let problem = match tree.text(path) {
            None => "quotes a file that is not there",
            Some(source) if code(source) == quoted.trim() => continue,
            Some(_) => "does not say what the file says",
        };
        findings.push(Finding::at(
            &page.path,
            number,
            format!("{path}: {problem}"),
        ));
    }
    findings
}

/// The line, the path and the text of each block.
fn quotes(page: &str) -> Vec<(usize, &str, String)> {
    let mut quotes = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        if !line.starts_with("```rust") {
            continue;
        }
        let block: Vec<_> = lines
            .by_ref()
            .take_while(|(_, line)| *line != "```")
            .collect();
        if let [(number, first), rest @ ..] = block.as_slice()
            && let Some(path) = first
                .strip_prefix("// ")
                .filter(|path| path.ends_with(".rs"))
        {
            let text: Vec<&str> = rest.iter().map(|(_, line)| *line).collect();
            quotes.push((*number, path, text.join("\n")));
        }
    }
    quotes
}

fn code(source: &str) -> String {
    let lines = source
        .lines()
        .skip_while(|line| line.starts_with("//!") || line.is_empty());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(block: &str) -> Vec<String> {
        let page = format!("text\n```rust\n{block}\n```\ntext\n");
        let source = "//! Says hello.\n\nfn main() {\n\n}\n";
        let tree = Tree::of(&[("README.md", &page), ("examples/a.rs", source)]);
        check(&tree.files()[0], &tree)
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    #[test]
    fn a_faithful_quote_passes() {
        assert_eq!(findings("// examples/a.rs\nfn main() {\n\n}"), [""; 0]);
        assert_eq!(findings("let x = 1;"), [""; 0]);
    }

    #[test]
    fn a_quote_that_differs_is_found() {
        let found = findings("// examples/a.rs\nfn main() {}");
        assert_eq!(
            found,
            ["README.md:3: examples/a.rs: does not say what the file says"]
        );
        assert_eq!(findings("// examples/b.rs\nfn main() {}").len(), 1);
    }
}
