//! What the parser of property lists does not do: it drops character data (`<![CDATA[…]]>`) and
//! unknown entities without a word, and does not tell where the keys are.

use std::borrow::Cow;

const COMMENT: &str = "<!--";
const CHARACTER_DATA: &str = "<![CDATA[";

/// A part of a text.
enum Piece<'a> {
    /// Neither of the others.
    Plain(&'a str),
    /// With its delimiters.
    Comment(&'a str),
    /// Without them.
    CharacterData(&'a str),
}

/// The parts of a text with where they begin.
fn pieces(text: &str) -> impl Iterator<Item = (usize, Piece<'_>)> + Clone {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let (piece, len) = if rest.starts_with(COMMENT) {
            let len = rest.find("-->").map_or(rest.len(), |end| end + "-->".len());
            (Piece::Comment(rest.get(..len)?), len)
        } else if let Some(data) = rest.strip_prefix(CHARACTER_DATA) {
            let data = data.split("]]>").next()?;
            let len = CHARACTER_DATA.len() + data.len() + "]]>".len();
            (Piece::CharacterData(data), len)
        } else {
            let mut openings = rest.match_indices("<!").map(|(at, _)| at);
            let special = |at: &usize| {
                let rest = rest.get(*at..).unwrap_or_default();
                rest.starts_with(COMMENT) || rest.starts_with(CHARACTER_DATA)
            };
            let len = openings.find(special).unwrap_or(rest.len());
            (Piece::Plain(rest.get(..len)?), len)
        };
        let at = start;
        start += len;
        Some((at, piece))
    })
}

/// The same text with its character data written as other text is. Lines stay what they are.
pub(super) fn without_character_data(text: &str) -> Cow<'_, str> {
    if !text.contains(CHARACTER_DATA) {
        return Cow::Borrowed(text);
    }
    let parts = pieces(text).map(|(_, piece)| match piece {
        Piece::Plain(text) | Piece::Comment(text) => Cow::Borrowed(text),
        Piece::CharacterData(data) => Cow::Owned(escaped(data)),
    });
    Cow::Owned(parts.collect())
}

fn escaped(data: &str) -> String {
    data.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Where an entity is that XML does not have by itself.
pub(super) fn unknown_entity(text: &str) -> Option<usize> {
    pieces(text).find_map(|(start, piece)| {
        let Piece::Plain(plain) = piece else {
            return None;
        };
        let mut entities = plain.match_indices('&').map(|(at, _)| at);
        let at = entities.find(|at| !is_known(plain.get(at + 1..).unwrap_or_default()))?;
        Some(start + at)
    })
}

fn is_known(entity: &str) -> bool {
    const KNOWN: [&str; 6] = ["#", "amp;", "lt;", "gt;", "quot;", "apos;"];
    KNOWN.iter().any(|known| entity.starts_with(known))
}

/// All keys with where they begin, in the order of the text.
pub(super) fn keys(text: &str) -> impl Iterator<Item = (String, usize)> + Clone {
    pieces(text).flat_map(|(start, piece)| {
        let plain = match piece {
            Piece::Plain(plain) => plain,
            Piece::Comment(_) | Piece::CharacterData(_) => "",
        };
        plain.match_indices("<key").filter_map(move |(at, tag)| {
            let rest = plain.get(at + tag.len()..)?;
            let (key, _) = rest.trim_start().strip_prefix('>')?.split_once("</key")?;
            Some((unescaped(key), start + at))
        })
    })
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}
