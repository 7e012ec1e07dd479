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

/// The processes that a process has started, by any of its threads, and that are not reaped. There
/// are none if the process itself is gone.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().filter_map(|thread| {
        // A thread that has ended leaves its children to another one.
        fs::read_to_string(thread.ok()?.path().join("children")).ok()
    });
    let words = lists.flat_map(|list| {
        let pids = list.split_whitespace().map(str::parse);
        pids.collect::<Result<Vec<u32>, _>>()
            .expect("proc_pid_children")
    });
    words.collect()
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

    #[test]
    fn children_of_every_thread_are_found() {
        let start = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("1000").spawn().expect("sleep")
        };
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(start()).expect("told");
            wait.recv().ok();
        });
        let mut sleeper = told.recv().expect("a child");
        let found = children(std::process::id());
        sleeper.kill().expect("kill");
        sleeper.wait().expect("wait");
        drop(go);
        thread.join().expect("join");
        assert!(found.contains(&sleeper.id()));
    }
}
