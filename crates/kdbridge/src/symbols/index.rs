//! Where the file with a kernel's symbols is.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::build_id::BuildId;
use super::elf::ElfFile;
use crate::folders::{MOST_ENTRIES, walk};

/// Where distributions put them.
const SYSTEM: &str = "/usr/lib/debug";
/// No more files than this are opened in one search.
const MOST_FILES: usize = 20_000;
/// How long it is believed that no file has come.
const FRESH: Duration = Duration::from_secs(5);

/// A search for files by their build-id. Nothing is ever asked of the network.
#[derive(Debug, Clone)]
pub struct Index {
    places: Vec<PathBuf>,
    /// What was there, so that it is looked through once for all modules.
    listing: RefCell<Listing>,
    cut_off: Cell<bool>,
}

/// The files of kernels and modules in the places of an [`Index`], in their order.
#[derive(Debug, Clone, Default)]
struct Listing {
    files: Vec<PathBuf>,
    at: Option<Instant>,
}

impl Index {
    /// Searches these files and folders in turn, and after them where distributions put
    /// debug information.
    #[must_use]
    pub fn new(places: Vec<PathBuf>) -> Self {
        Self::only(places).with(SYSTEM.into())
    }

    /// Searches these files and folders only.
    #[must_use]
    pub fn only(places: Vec<PathBuf>) -> Self {
        Self {
            places,
            listing: RefCell::default(),
            cut_off: Cell::new(false),
        }
    }

    fn with(mut self, place: PathBuf) -> Self {
        self.places.push(place);
        self
    }

    /// The files and folders that are searched.
    #[must_use]
    pub fn places(&self) -> &[PathBuf] {
        &self.places
    }

    /// Whether a search ended before all files were looked at, because there are too many.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.get()
    }

    /// The file of this build-id. First each place is asked for it by name, then the files of kernels and
    /// modules whose name satisfies `may_be` are opened; one with debug information comes before others.
    #[must_use]
    pub fn find(&self, id: &BuildId, may_be: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let named = self.places.iter().filter_map(|place| named(place, id));
        let mut named = named.filter(|path| opened(path, id).is_some());
        named.next().or_else(|| self.search(id, &may_be))
    }

    fn search(&self, id: &BuildId, may_be: &impl Fn(&str) -> bool) -> Option<PathBuf> {
        let known = self.search_listed(id, may_be);
        if known.is_some() || self.listing.borrow().is_fresh() {
            return known;
        }
        self.listing.replace(self.list());
        self.search_listed(id, may_be)
    }

    fn list(&self) -> Listing {
        let mut files = Vec::new();
        let mut left = MOST_ENTRIES;
        for place in &self.places {
            if place.is_file() {
                files.push(place.clone());
                continue;
            }
            let _to_the_end = walk(place, &mut left, &mut |path| {
                if may_be_any(&name_of(path)) {
                    files.push(path.to_owned());
                }
                ControlFlow::Continue(())
            });
        }
        if left == 0 {
            self.cut_off.set(true);
        }
        Listing {
            files,
            at: Some(Instant::now()),
        }
    }

    fn search_listed(&self, id: &BuildId, may_be: &impl Fn(&str) -> bool) -> Option<PathBuf> {
        let listing = self.listing.borrow();
        let files = listing.files.iter();
        let files = files.filter(|path| may_be(&name_of(path)) || self.places.contains(path));
        let mut stripped = None;
        for (count, path) in files.enumerate() {
            if count == MOST_FILES {
                self.cut_off.set(true);
                break;
            }
            let Some(elf) = opened(path, id) else {
                continue;
            };
            if elf.section(".debug_info").is_some() {
                return Some(path.clone());
            }
            stripped.get_or_insert(path);
        }
        stripped.cloned()
    }
}

impl Listing {
    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < FRESH)
    }
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Whether a file of this name may be a kernel or a module.
fn may_be_any(name: &str) -> bool {
    may_be_kernel(name) || name.ends_with(".ko")
}

/// Whether a file of this name may be a kernel: `vmlinux`, `vmlinux-6.1.0`, `kernel.debug`.
#[must_use]
pub fn may_be_kernel(name: &str) -> bool {
    name.starts_with("vmlinux") || name.ends_with(".debug")
}

/// Where a folder that is, or has, a `.build-id` tree would have the file.
fn named(place: &Path, id: &BuildId) -> Option<PathBuf> {
    let name = id.file_name();
    let tree = place.join(".build-id").join(&name);
    [tree, place.join(name)].into_iter().find(|it| it.is_file())
}

/// The file, if it has this build-id.
fn opened(path: &Path, id: &BuildId) -> Option<ElfFile> {
    let elf = ElfFile::open(path).ok()?;
    (elf.build_id().as_ref() == Some(id)).then_some(elf)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::Elf;
    use super::*;
    use tempfile::TempDir;

    fn kernel(id: u8) -> Vec<u8> {
        linked(id).bytes()
    }

    fn linked(id: u8) -> Elf {
        let mut notes = [4u32, 20, 3].map(u32::to_le_bytes).concat();
        notes.extend(b"GNU\0");
        notes.extend([id; 20]);
        Elf::new().section(".notes", 7, 0, &notes)
    }

    fn put(folder: &TempDir, name: &str, id: u8) -> PathBuf {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, kernel(id)).unwrap();
        path
    }

    fn find(place: &Path, id: u8) -> Option<PathBuf> {
        let id = BuildId::new(&[id; 20]).unwrap();
        Index::only(vec![place.into()]).find(&id, may_be_kernel)
    }

    #[test]
    fn a_tree_of_build_ids_is_asked_by_name() {
        let folder = TempDir::new().unwrap();
        let name = format!(".build-id/07/{}.debug", "07".repeat(19));
        let path = put(&folder, &name, 7);
        assert_eq!(find(folder.path(), 7).unwrap(), path);
        assert_eq!(find(&folder.path().join(".build-id"), 7).unwrap(), path);
        assert_eq!(find(folder.path(), 8), None);
    }

    #[test]
    fn folders_are_searched_by_what_the_files_say() {
        let folder = TempDir::new().unwrap();
        put(&folder, "boot/vmlinux-6.1", 1);
        let path = put(&folder, "boot/old/vmlinux", 2);
        put(&folder, "boot/other", 3);
        assert_eq!(find(folder.path(), 2).unwrap(), path);
        assert_eq!(find(folder.path(), 3), None, "its name is none of a kernel");
    }

    #[test]
    fn a_file_may_have_any_name_and_must_have_the_build_id() {
        let folder = TempDir::new().unwrap();
        let path = put(&folder, "mine", 3);
        assert_eq!(find(&path, 3).unwrap(), path);
        assert_eq!(find(&path, 4), None);
    }

    #[test]
    fn a_file_with_debug_information_comes_before_others() {
        let folder = TempDir::new().unwrap();
        put(&folder, "a/vmlinux", 5);
        let path = folder.path().join("b/vmlinux");
        fs::create_dir_all(folder.path().join("b")).unwrap();
        let whole = linked(5).section(".debug_info", 1, 0, b"unit").bytes();
        fs::write(&path, whole).unwrap();
        assert_eq!(find(folder.path(), 5).unwrap(), path);
    }

    #[test]
    fn a_name_that_lies_about_the_build_id_is_not_believed() {
        let folder = TempDir::new().unwrap();
        put(&folder, &format!("07/{}.debug", "07".repeat(19)), 9);
        assert_eq!(find(folder.path(), 7), None);
    }

    #[test]
    fn only_what_is_opened_is_counted() {
        let folder = TempDir::new().unwrap();
        let many = folder.path().join("many");
        fs::create_dir(&many).unwrap();
        for number in 0..=MOST_FILES {
            fs::write(many.join(format!("{number}.debug")), "").unwrap();
        }
        let path = put(&folder, "module/mine.ko", 6);
        let index = Index::only(vec![folder.path().into()]);
        let id = BuildId::new(&[6; 20]).unwrap();
        assert_eq!(index.find(&id, |name| name == "mine.ko"), Some(path));
        assert!(!index.is_cut_off());
        assert_eq!(index.find(&id, may_be_kernel), None);
        assert!(index.is_cut_off());
    }

    #[test]
    fn a_file_that_comes_later_is_found_after_a_while() {
        let folder = TempDir::new().unwrap();
        let index = Index::only(vec![folder.path().into()]);
        let id = BuildId::new(&[7; 20]).unwrap();
        assert_eq!(index.find(&id, may_be_kernel), None);
        let path = put(&folder, "vmlinux", 7);
        let at = Instant::now().checked_sub(FRESH);
        index.listing.borrow_mut().at = at;
        assert_eq!(index.find(&id, may_be_kernel), Some(path));
    }
}
