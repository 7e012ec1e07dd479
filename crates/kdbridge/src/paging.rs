//! Page tables of x86-64.

/// Where a processor finds its page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The register CR3.
    pub cr3: u64,
    /// Five levels instead of four: bit 12 of the register CR4.
    pub five_levels: bool,
}

/// What page tables say of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The physical address of what is there.
    There(u64),
    /// Nothing is there, nor in this many bytes around, which begin at a multiple of it.
    Hole(u64),
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The bit of CR3 in which the tables of a process that runs in user mode differ from the kernel's, where
/// the kernel keeps the two apart.
const USER_TABLES: u64 = 0x1000;

impl Root {
    /// The tables that the kernel uses for the process that this processor runs.
    #[must_use]
    pub fn of_the_kernel(self) -> Self {
        Self {
            cr3: self.cr3 & !USER_TABLES,
            ..self
        }
    }

    /// Whether these may be the tables without most of the kernel.
    #[must_use]
    pub fn may_be_without_kernel(self) -> bool {
        self.cr3 & USER_TABLES != 0
    }

    /// What is at a virtual address. `entry` reads eight bytes of physical memory.
    ///
    /// # Errors
    ///
    /// What `entry` says.
    pub fn look_up<E>(
        self,
        at: u64,
        mut entry: impl FnMut(u64) -> Result<u64, E>,
    ) -> Result<Place, E> {
        let mut table = self.cr3 & ADDRESS;
        let top = if self.five_levels { 48 } else { 39 };
        for shift in (12..=top).rev().step_by(9) {
            let value = entry(table + (at >> shift & 0x1ff) * 8)?;
            if value & PRESENT == 0 {
                return Ok(Place::Hole(1 << shift));
            }
            let offset = (1 << shift) - 1;
            if shift == 12 || (shift <= 30 && value & LARGE != 0) {
                return Ok(Place::There(value & ADDRESS & !offset | at & offset));
            }
            table = value & ADDRESS;
        }
        Ok(Place::Hole(1 << 12))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    fn translate(root: Root, entries: &[(u64, u64)], at: u64) -> Option<u64> {
        let entries: BTreeMap<u64, u64> = entries.iter().copied().collect();
        let entry = |at| Ok::<_, Infallible>(entries.get(&at).copied().unwrap_or(0));
        match root.look_up(at, entry) {
            Ok(Place::There(physical)) => Some(physical),
            Ok(Place::Hole(_)) => None,
        }
    }

    const AT: u64 = 0xffff_ffff_8123_4567;
    const FOUR: Root = Root {
        cr3: 0x5018,
        five_levels: false,
    };

    #[test]
    fn four_levels_of_small_pages() {
        let entries = [
            (0x5ff8, 0x6063),
            (0x6ff0, 0x7063),
            (0x7048, 0x8063),
            (0x81a0, 0x8000_0000_0123_4063),
        ];
        assert_eq!(translate(FOUR, &entries, AT), Some(0x123_4567));
        assert_eq!(translate(FOUR, &entries[..3], AT), None);
    }

    #[test]
    fn a_hole_is_as_large_as_what_the_absent_entry_is_for() {
        let entries = [(0x5000, 0x6063), (0x6000, 0x7063)];
        let hole = |at| {
            let entry = |place| {
                let found = entries.iter().find(|(known, _)| *known == place);
                Ok::<_, Infallible>(found.map_or(0, |(_, value)| *value))
            };
            let Ok(place) = FOUR.look_up(at, entry);
            place
        };
        assert_eq!(hole(0x1000), Place::Hole(2 << 20));
        assert_eq!(hole(1 << 30), Place::Hole(1 << 30));
        assert_eq!(hole(AT), Place::Hole(1 << 39));
    }

    #[test]
    fn large_pages_end_the_walk() {
        let entries = [(0x5ff8, 0x6063), (0x6ff0, 0x7063), (0x7048, 0x4000_10e3)];
        assert_eq!(translate(FOUR, &entries, AT), Some(0x4003_4567));
        let entries = [(0x5ff8, 0x6063), (0x6ff0, 0x4000_00e3)];
        assert_eq!(translate(FOUR, &entries, AT), Some(0x4123_4567));
    }

    #[test]
    fn five_levels_begin_one_higher() {
        let root = Root {
            cr3: 0x4000,
            five_levels: true,
        };
        let entries = [
            (0x4ff8, 0x5063),
            (0x5ff8, 0x6063),
            (0x6ff0, 0x7063),
            (0x7048, 0x4000_00e3),
        ];
        assert_eq!(translate(root, &entries, AT), Some(0x4003_4567));
    }

    #[test]
    fn the_tables_of_user_mode_are_the_ones_behind_the_kernels() {
        let user = Root {
            cr3: 0x7000,
            five_levels: false,
        };
        assert!(user.may_be_without_kernel());
        assert_eq!(user.of_the_kernel().cr3, 0x6000);
        assert!(!user.of_the_kernel().may_be_without_kernel());
    }
}
