//! How much two keys differ.

/// Levenshtein's distance: insertions, deletions and substitutions of bytes.
///
/// It takes time in proportion to the product of the lengths: compare those first.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            (diagonal, *cell) = (above, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, expected) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(a, b), expected, "{a:?} to {b:?}");
        }
    }
}
