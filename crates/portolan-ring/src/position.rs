//! Positions are byte counts since the start, kept modulo 2^64. Only differences have a meaning.

use crate::Corrupt;
use crate::record::ALIGNMENT;

/// Checks a position that the other side wrote: it must lie between `floor` and `floor + span`
/// and on a record boundary.
pub(crate) fn check_claim(claimed: u64, floor: u64, span: u64, own: u64) -> Result<u64, Corrupt> {
    let within = claimed.wrapping_sub(floor) <= span;
    if within && claimed.is_multiple_of(ALIGNMENT) {
        Ok(claimed)
    } else {
        Err(Corrupt::Position { claimed, own })
    }
}

/// Whether `position` is at `target` or past it.
pub(crate) fn is_past(position: u64, target: u64) -> bool {
    position.wrapping_sub(target) <= u64::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_held_to_its_bounds_even_where_positions_wrap() {
        let floor = u64::MAX - 7;
        assert_eq!(check_claim(floor, floor, 64, 0), Ok(floor));
        assert_eq!(check_claim(56, floor, 64, 0), Ok(56));
        for bad in [64, floor - 8, 4, 1 << 63] {
            let refused = Corrupt::Position {
                claimed: bad,
                own: 9,
            };
            assert_eq!(check_claim(bad, floor, 64, 9), Err(refused));
        }
    }

    #[test]
    fn a_target_is_reached_even_where_positions_wrap() {
        assert!(is_past(8, 8) && is_past(16, 8) && !is_past(0, 8));
        assert!(is_past(0, u64::MAX - 7) && !is_past(u64::MAX - 7, 0));
    }
}
