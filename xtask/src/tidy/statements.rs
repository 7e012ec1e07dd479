//! The table of conformance statements and the tests that are named after them agree.

use std::collections::BTreeMap;
use std::fmt;

use super::Finding;
use super::source::RustFile;
use super::tree::Tree;

const PAGE: &str = "docs/reference/statements.md";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let tests = tests(tree.rust());
    let rows = rows(tree.text(PAGE).unwrap_or_default());
    let mut findings = Vec::new();
    for (&test, place) in &tests {
        for statement in statements(test) {
            if !rows
                .iter()
                .any(|row| row.statement == statement && row.test == test)
            {
                let text = format!("{test} is not in the row of statement {statement} of {PAGE}");
                findings.push(Finding::new(place, text));
            }
        }
    }
    for row in &rows {
        if !statements(row.test).contains(&row.statement) {
            let (test, statement) = (row.test, row.statement);
            let text = format!("{test} stands in the row of statement {statement}");
            findings.push(Finding::at(PAGE, row.line, text));
        } else if !tests.contains_key(row.test) {
            let text = format!("there is no test {}", row.test);
            findings.push(Finding::at(PAGE, row.line, text));
        }
    }
    findings
}

/// A statement of one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    /// About Mach, launchd and CFMessagePort; tests are named `sNN_…`.
    Semantics(u32),
    /// About launching on demand, `L` before its number; tests are named `lNN_…`.
    Launch(u32),
    /// About debugging a kernel, `K` before its number; tests are named `kNN_…`.
    Kernel(u32),
    /// About the walls around programs, `W` before its number; tests are named `wNN_…`.
    Wall(u32),
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Semantics(number) => write!(f, "{number}"),
            Self::Launch(number) => write!(f, "L{number}"),
            Self::Kernel(number) => write!(f, "K{number}"),
            Self::Wall(number) => write!(f, "W{number}"),
        }
    }
}

/// A test that a row of a table names.
struct Row<'a> {
    line: usize,
    statement: Statement,
    test: &'a str,
}

/// Reads `| number | statement | `test`, `test` |`.
fn rows(page: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (line, text) in page.lines().enumerate() {
        let cells: Vec<&str> = text.split('|').map(str::trim).collect();
        let ["", number, .., tests, ""] = cells.as_slice() else {
            continue;
        };
        let Some(statement) = numbered(number) else {
            continue;
        };
        let tests = tests.split('`').skip(1).step_by(2);
        rows.extend(tests.map(|test| Row {
            line,
            statement,
            test,
        }));
    }
    rows
}

/// What stands in the first column.
fn numbered(text: &str) -> Option<Statement> {
    match text.split_at_checked(1)? {
        ("L", number) => Some(Statement::Launch(number.parse().ok()?)),
        ("K", number) => Some(Statement::Kernel(number.parse().ok()?)),
        ("W", number) => Some(Statement::Wall(number.parse().ok()?)),
        _ => Some(Statement::Semantics(text.parse().ok()?)),
    }
}

/// Every function named `sNN_…`, `lNN_…`, `kNN_…` or `wNN_…` and where it stands.
fn tests(files: &[RustFile]) -> BTreeMap<&str, String> {
    let mut tests = BTreeMap::new();
    for file in files {
        for (number, line) in file.lines_with("fn") {
            let name = line.code.split("fn ").nth(1).unwrap_or_default();
            let name = name.split('(').next().unwrap_or_default();
            if !statements(name).is_empty() {
                tests.insert(name, format!("{}:{}", file.path, number + 1));
            }
        }
    }
    tests
}

/// The statements in front of a test's name: 12 and 13 in `s12_s13_moves`.
fn statements(name: &str) -> Vec<Statement> {
    let parts = name.split('_');
    parts.map_while(statement).collect()
}

fn statement(part: &str) -> Option<Statement> {
    match part.split_at_checked(1)? {
        ("s", number) => Some(Statement::Semantics(number.parse().ok()?)),
        ("l", number) => Some(Statement::Launch(number.parse().ok()?)),
        ("k", number) => Some(Statement::Kernel(number.parse().ok()?)),
        ("w", number) => Some(Statement::Wall(number.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(page: &str) -> Vec<String> {
        let source = "#[test]\nfn s54_unknown_name() {}\nfn s5_a() {}\nfn send_it() {}\n";
        let tree = Tree::of(&[(PAGE, page), ("crates/x/tests/a.rs", source)]);
        check(&tree).iter().map(Finding::to_string).collect()
    }

    const HEAD: &str = "| number | statement | test |\n| --- | --- | --- |\n";

    #[test]
    fn a_full_table_passes() {
        let page = format!("{HEAD}| 5 | x | `s5_a` |\n| 54 | y | `s54_unknown_name` |\n");
        assert_eq!(findings(&page), [""; 0]);
    }

    #[test]
    fn a_test_without_a_row_is_found() {
        let page = format!("{HEAD}| 5 | x | `s5_a` |\n");
        let text = format!("s54_unknown_name is not in the row of statement 54 of {PAGE}");
        assert_eq!(findings(&page), [format!("crates/x/tests/a.rs:2: {text}")]);
    }

    #[test]
    fn a_row_without_a_test_is_found() {
        let page = format!("{HEAD}| 5 | x | `s5_a`, `s5_b` |\n| 54 | y | `s54_unknown_name` |\n");
        assert_eq!(
            findings(&page),
            [format!("{PAGE}:3: there is no test s5_b")]
        );
    }

    #[test]
    fn a_test_in_another_row_is_found() {
        let page = format!("{HEAD}| 6 | x | `s5_a` |\n| 54 | y | `s54_unknown_name` |\n");
        let found = findings(&page);
        let missing = format!("s5_a is not in the row of statement 5 of {PAGE}");
        assert_eq!(found[0], format!("crates/x/tests/a.rs:3: {missing}"));
        assert_eq!(
            found[1],
            format!("{PAGE}:3: s5_a stands in the row of statement 6")
        );
    }

    #[test]
    fn a_test_may_name_several_statements() {
        use Statement::{Kernel, Launch, Semantics};
        assert_eq!(statements("s12_s13_moves"), [Semantics(12), Semantics(13)]);
        assert_eq!(statements("s05_separate"), [Semantics(5)]);
        assert_eq!(statements("l30_starts"), [Launch(30)]);
        assert_eq!(statements("k12_k14_reads"), [Kernel(12), Kernel(14)]);
        assert_eq!(statements("send_s5_it"), []);
        assert_eq!(statements("load_l5"), []);
    }

    #[test]
    fn the_tables_have_numbers_of_their_own() {
        let check = |row: &str, test: &str| {
            let page = format!("{HEAD}{row}\n");
            let source = format!("#[test]\nfn {test}() {{}}\n");
            check(&Tree::of(&[
                (PAGE, &page),
                ("crates/x/tests/a.rs", &source),
            ]))
            .len()
        };
        assert_eq!(check("| L54 | y | `l54_starts` |", "l54_starts"), 0);
        assert_eq!(check("| 54 | y | `l54_starts` |", "l54_starts"), 2);
        assert_eq!(check("| K54 | y | `k54_reads` |", "k54_reads"), 0);
        assert_eq!(check("| L54 | y | `k54_reads` |", "k54_reads"), 2);
    }
}
