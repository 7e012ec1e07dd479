//! What an expression is written with.

use super::{Problem, ProblemKind};

/// A longer expression is refused: what it is made of is followed recursively.
const MOST_TOKENS: usize = 1000;

/// A word or a sign, and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    Name(String),
    Number(u64),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 11] = ["->", "&", "*", ".", "(", ")", "[", "]", "+", "-", ","];

/// Cuts an expression into words and signs; the last one is the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        if next.is_whitespace() {
            at += next.len_utf8();
            continue;
        }
        if tokens.len() == MOST_TOKENS {
            let kind = ProblemKind::TooDeep;
            return Err(Problem { at, kind });
        }
        let (kind, length) = token(&text[at..]).map_err(|kind| Problem { at, kind })?;
        tokens.push(Token { at, kind });
        at += length;
    }
    tokens.push(Token {
        at,
        kind: TokenKind::End,
    });
    Ok(tokens)
}

/// The token that a text begins with, and its length.
fn token(text: &str) -> Result<(TokenKind, usize), ProblemKind> {
    let word = text.find(|it: char| !is_of_word(it)).unwrap_or(text.len());
    let (word, rest) = text.split_at(word);
    if word.starts_with(|it: char| it.is_ascii_digit()) {
        let number = number(word).ok_or_else(|| ProblemKind::Number(word.to_owned()))?;
        return Ok((TokenKind::Number(number), word.len()));
    }
    if !word.is_empty() {
        return Ok((TokenKind::Name(word.to_owned()), word.len()));
    }
    let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
    let sign = sign.ok_or_else(|| {
        let unknown = rest.chars().next().unwrap_or_default();
        ProblemKind::Character(unknown)
    })?;
    Ok((TokenKind::Sign(sign), sign.len()))
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '$'
}

/// A number as C has it; `U` and `L` at its end make no difference.
fn number(word: &str) -> Option<u64> {
    let word = word.trim_end_matches(['u', 'U', 'l', 'L']);
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    match word.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => word.parse().ok(),
    }
}
