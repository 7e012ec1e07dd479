//! No raw descriptor in what a library offers: who holds a descriptor owns or borrows it.

use super::Finding;
use super::source::{RustFile, has_word};

const RAW: &[&str] = &["RawFd", "AsRawFd", "FromRawFd", "IntoRawFd", "c_int"];

/// The layer below, and the C API, which speaks C.
const EXCEPT: &[&str] = &["crates/portolan-sys/", "crates/portolan-capi/"];

pub(super) fn check(file: &RustFile) -> Vec<Finding> {
    if !file.path.starts_with("crates/") || EXCEPT.iter().any(|at| file.path.starts_with(at)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.lines.iter().enumerate() {
        let code = line.code.trim_start();
        let public = code.starts_with("pub ") || is_raw_trait(code);
        if line.in_test || !public {
            continue;
        }
        let signature = signature(file, number);
        if let Some(word) = RAW.iter().find(|word| has_word(&signature, word)) {
            let text = format!("`{word}` in a public signature; use OwnedFd, BorrowedFd or AsFd");
            findings.push(Finding::at(&file.path, number, text));
        }
    }
    findings
}

fn is_raw_trait(code: &str) -> bool {
    code.starts_with("impl") && code.contains(" for ")
}

/// The item that starts on line `number`: up to its body, or with its body where that is part of
/// what it offers.
fn signature(file: &RustFile, number: usize) -> String {
    let first = file.lines[number].code.trim();
    let with_body = first.starts_with("pub enum") || first.starts_with("pub trait");
    let (mut text, mut depth) = (String::new(), 0i32);
    for line in &file.lines[number..] {
        for c in line.code.chars() {
            match c {
                '{' if !with_body => return text,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                ';' | ',' if depth == 0 => return text,
                _ => {}
            }
            text.push(c);
            if depth < 0 || (c == '}' && depth == 0) {
                return text;
            }
        }
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        check(&RustFile::new("crates/portolan-port/src/x.rs", text)).len()
    }

    #[test]
    fn raw_descriptors_in_public_items_are_found() {
        assert_eq!(findings("pub fn f(\n    fd: RawFd,\n) {}\n"), 1);
        assert_eq!(findings("pub fn f() -> std::os::fd::RawFd { 0 }\n"), 1);
        assert_eq!(findings("pub struct A {\n    pub fd: RawFd,\n}\n"), 1);
        assert_eq!(findings("pub enum A {\n    B(c_int),\n}\n"), 1);
        assert_eq!(findings("impl AsRawFd for A {\n"), 1);
        assert_eq!(findings("pub type Fd = RawFd;\n"), 1);
    }

    #[test]
    fn private_use_is_none_of_our_business() {
        assert_eq!(
            findings("fn f(fd: RawFd) {}\npub(crate) fn g(fd: RawFd) {}\n"),
            0
        );
        assert_eq!(
            findings("pub fn f(fd: OwnedFd) {\n    let x: RawFd = 1;\n}\n"),
            0
        );
        assert_eq!(findings("pub struct A {\n    fd: RawFd,\n}\n"), 0);
    }

    #[test]
    fn the_layer_below_may() {
        let file = RustFile::new("crates/portolan-sys/src/x.rs", "pub fn f(fd: RawFd) {}\n");
        assert!(check(&file).is_empty());
    }
}
