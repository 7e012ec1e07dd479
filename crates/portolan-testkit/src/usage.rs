//! What a process uses, as `/proc` shows it.

use std::fs;

/// Open descriptors of a process.
///
/// # Panics
///
/// If there is no such process of this user.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process");
    // Looking into the own table takes a descriptor, which is in it.
    entries.count() - usize::from(pid == std::process::id())
}

/// Threads of a process.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn threads(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("the process");
    entries.count()
}

/// Bytes of memory that a process has resident.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn resident(pid: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("the process");
    let pages = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    let pages: usize = pages.expect("proc_pid_statm(5)");
    pages * rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        let before = descriptors(own);
        let file = fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(descriptors(own), before + 1);
        drop(file);
        assert!(threads(own) >= 1);
        assert!(resident(own) >= rustix::param::page_size());
    }
}
