//! Memory that is asked for only once while a machine stands still.

use std::collections::HashMap;

use crate::target::{Memory, TargetError};

/// The size of a page of x86-64.
pub(crate) const PAGE: u64 = 4096;
/// As many pages are kept: 64 MiB.
const MOST_PAGES: usize = 16 << 10;

/// The memory of a kernel, a page at a time: no page is partly a device's, so this reads none that
/// would not be read else. What is written past it, or by the machine when it runs, does not show.
pub struct Pages<'a> {
    memory: &'a mut dyn Memory,
    pages: HashMap<u64, Box<[u8]>>,
}

impl<'a> Pages<'a> {
    /// Reads from `memory`, which must not change from now on.
    pub fn new(memory: &'a mut dyn Memory) -> Self {
        Self {
            memory,
            pages: HashMap::new(),
        }
    }

    fn page(&mut self, at: u64) -> Result<&[u8], TargetError> {
        if self.pages.len() >= MOST_PAGES && !self.pages.contains_key(&at) {
            self.pages.clear();
        }
        match self.pages.entry(at) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut page = vec![0; PAGE as usize].into_boxed_slice();
                self.memory.read(at, &mut page)?;
                Ok(place.insert(page))
            }
        }
    }
}

impl std::fmt::Debug for Pages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = self.pages.len();
        f.debug_struct("Pages")
            .field("pages", &pages)
            .finish_non_exhaustive()
    }
}

impl Memory for Pages<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        let first = at % PAGE;
        if first + into.len() as u64 > 4 * PAGE {
            return self.memory.read(at, into);
        }
        let mut done = 0;
        while done < into.len() {
            let next = at.wrapping_add(done as u64);
            let offset = (next % PAGE) as usize;
            let part = (into.len() - done).min(PAGE as usize - offset);
            let place = &mut into[done..done + part];
            match self.page(next - offset as u64) {
                Ok(page) => place.copy_from_slice(&page[offset..offset + part]),
                // A part of the page may be readable all the same, and only that may be wanted.
                Err(TargetError::Unreadable(_)) => self.memory.read(next, place)?,
                Err(error) => return Err(error),
            }
            done += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from 0 to 0x3000 and how often it was asked.
    struct Asked {
        times: usize,
    }

    impl Memory for Asked {
        fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
            self.times += 1;
            for (byte, at) in into.iter_mut().zip(at..) {
                if at >= 0x2800 {
                    return Err(TargetError::Unreadable(at));
                }
                *byte = (at >> 8) as u8;
            }
            Ok(())
        }
    }

    fn read(pages: &mut Pages<'_>, at: u64, length: usize) -> Result<Vec<u8>, TargetError> {
        let mut bytes = vec![0; length];
        pages.read(at, &mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_page_is_asked_for_once() {
        let mut memory = Asked { times: 0 };
        let mut pages = Pages::new(&mut memory);
        assert_eq!(read(&mut pages, 0xfff, 2).unwrap(), [0x0f, 0x10]);
        assert_eq!(read(&mut pages, 0x10, 1).unwrap(), [0]);
        assert_eq!(read(&mut pages, 0x1f00, 1).unwrap(), [0x1f]);
        assert_eq!(memory.times, 2);
    }

    #[test]
    fn what_can_be_read_of_a_page_is_read() {
        let mut memory = Asked { times: 0 };
        let mut pages = Pages::new(&mut memory);
        assert_eq!(read(&mut pages, 0x27ff, 1).unwrap(), [0x27]);
        let error = read(&mut pages, 0x27ff, 2).unwrap_err();
        assert!(matches!(error, TargetError::Unreadable(0x2800)), "{error}");
    }

    #[test]
    fn a_long_read_passes_by() {
        let mut memory = Asked { times: 0 };
        let mut pages = Pages::new(&mut memory);
        assert_eq!(read(&mut pages, 0, 0x2800).unwrap().len(), 0x2800);
        assert!(read(&mut pages, 0, 0x5000).is_err());
        assert_eq!(
            memory.times, 5,
            "three pages, the rest of one, and a long read"
        );
    }
}
