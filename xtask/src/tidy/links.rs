//! Relative links in Markdown lead somewhere.

use super::Finding;
use super::tree::{TextFile, Tree};

pub(super) fn check(file: &TextFile, tree: &Tree) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in prose(&file.text) {
        for target in targets(&line) {
            if let Some(problem) = problem(target, file, tree) {
                findings.push(Finding::at(&file.path, number, problem));
            }
        }
    }
    findings
}

fn problem(target: &str, file: &TextFile, tree: &Tree) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match path {
        "" => file.path.clone(),
        _ => match resolve(&file.path, path) {
            Some(path) => path,
            None => return Some(format!("the link {target} leads out of the repository")),
        },
    };
    if !tree.has(&path) {
        return Some(format!("the link {target} leads nowhere"));
    }
    let text = tree.text(&path).unwrap_or_default();
    let known = anchor.is_empty() || !path.ends_with(".md") || anchors(text).any(|a| a == anchor);
    (!known).then(|| format!("the link {target} names a heading that is not there"))
}

/// The path that `link` names in a file at `from`; nothing when it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The lines of `text` outside fenced blocks, without their inline code.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.map(|(number, line)| (number, line.split('`').step_by(2).collect()))
}

/// The targets of `[text](target)` and of `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next());
    let definition = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .map(|(_, target)| target.trim());
    inline.chain(definition).collect()
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = prose_with_code(text).filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

fn prose_with_code(text: &str) -> impl Iterator<Item = &str> {
    prose(text).filter_map(|(number, _)| text.lines().nth(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("README.md", "# Portolan\n## Getting `started`, now\n"),
            ("docs/reference/page.md", text),
            ("docs/other.md", ""),
        ]);
        check(&tree.files()[1], &tree)
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    #[test]
    fn links_that_resolve_pass() {
        assert!(findings("[a](../other.md) [b](../../README.md#getting-started-now)\n").is_empty());
        assert!(findings("[a](https://example.org/x) [b](..)\n\n[c]: ../other.md\n").is_empty());
        assert!(findings("# Here\n[a](#here)\n").is_empty());
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        assert_eq!(findings("x\n[a](other.md)\n").len(), 1);
        assert_eq!(findings("[c]: nowhere.md\n").len(), 1);
        assert_eq!(findings("[a](../../../x)\n").len(), 1);
        assert_eq!(findings("[a](../../README.md#nothing)\n").len(), 1);
    }

    #[test]
    fn code_is_not_searched() {
        assert!(findings("`[a](b)`\n```\n[a](b)\n```\n").is_empty());
    }
}
