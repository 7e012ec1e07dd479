//! Where each build of a kernel had what is searched for, by what is at its handler of page faults.
//!
//! A guest may have written that, so the place is all that is taken from it: what is there now has to be right.

use super::{Counted, IMAGES, Places};
use crate::symbols::{Cache, hash};
use crate::target::TargetError;

const WHAT: &str = "places-1";
/// So much of the handler is looked at. It calls functions, whose distances differ from build to build.
const OF_HANDLER: usize = 64;

/// What is known of the build that lies at `text`.
pub(super) struct Remembered<'a> {
    cache: &'a Cache,
    build: String,
    text: u64,
}

impl<'a> Remembered<'a> {
    pub(super) fn of(
        memory: &mut Counted<'_>,
        text: u64,
        handler: u64,
        cache: &'a Cache,
    ) -> Result<Self, TargetError> {
        let mut code = [0; OF_HANDLER];
        memory.read(handler, &mut code)?;
        let code = code.into_iter().map(u64::from);
        let build = hash(code.chain([handler.wrapping_sub(text)]));
        Ok(Self {
            cache,
            build: format!("{build:016x}"),
            text,
        })
    }

    /// Where the banner and the note may be, none of them outside of where kernels lie.
    pub(super) fn places(&self) -> Option<Places> {
        let words = self.cache.load_words(&self.build, WHAT)?;
        let places = words.iter().map(|it| self.text.wrapping_add(*it));
        let places = places.filter(|it| IMAGES.contains(it));
        let [banner, note] = *places.collect::<Vec<_>>() else {
            return None;
        };
        let note = Some(note);
        Some(Places { banner, note })
    }

    /// Keeps the places of a kernel with a build-id.
    pub(super) fn keep(&self, places: &Places) {
        let Some(note) = places.note else {
            return;
        };
        let words = [places.banner, note].map(|it| it.wrapping_sub(self.text));
        self.cache.store_words(&self.build, WHAT, &words);
    }
}
