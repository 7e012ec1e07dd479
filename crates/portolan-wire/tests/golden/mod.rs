//! Committed bytes.

/// A golden file is `id N` on its first line, then bytes in hexadecimal; `#` begins a comment.
pub(crate) fn parse(text: &str) -> (i32, Vec<u8>) {
    let mut lines = text
        .lines()
        .map(|line| line.split('#').next().expect("a valid sample"));
    let id = lines
        .next()
        .expect("a valid sample")
        .strip_prefix("id ")
        .expect("a valid sample");
    let bytes = lines
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).expect("a valid sample"))
        .collect();
    (id.trim().parse().expect("a valid sample"), bytes)
}
