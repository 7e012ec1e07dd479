//! Logs of jobs: what a job writes stands in its file, whatever it writes and whatever happens to
//! the file.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use portolan_wire::label::JobLabel;
use portoland::log::{JobLog, Limits, ReadError, Reader};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

/// What is before each line of process 7 at that time.
const STAMP: &str = "1970-01-01T00:00:00.000Z 7: ";

const STAMP_OF_SERVER: &str = "1970-01-01T00:00:00.000Z portoland: ";

struct Stage {
    root: TempDir,
    log: JobLog,
}

fn label() -> JobLabel {
    JobLabel::try_from("org.example.job").expect("a label")
}

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let mut log = JobLog::open(&root.path().join("log"), &label()).expect("a log");
        log.set_pid(Some(7));
        Self { root, log }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// What the job has as its standard output.
    fn output(&self) -> File {
        File::from(self.log.input().try_clone_to_owned().expect("dup"))
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.output().write_all(bytes.as_ref()).expect("write");
        self.log.drain(NOW);
    }

    fn old(&self, number: u8) -> PathBuf {
        self.directory()
            .join(format!("org.example.job.log.{number}"))
    }

    fn text(&self) -> String {
        fs::read_to_string(self.log.path()).expect("a file")
    }
}

fn wait_for_output(log: &JobLog, time: Duration) {
    let mut fds = [PollFd::new(log, PollFlags::IN)];
    let time = Timespec::try_from(time).expect("short");
    rustix::event::poll(&mut fds, Some(&time)).expect("poll");
}

fn stamped(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| format!("{STAMP}{line}\n"))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

#[test]
fn each_line_is_stamped() {
    let mut stage = Stage::new();
    stage.write("one\ntwo\n");
    stage
        .log
        .note("exited with status 0", NOW + Duration::from_millis(61_001));
    stage.log.set_pid(Some(8));
    stage.write("three\n");
    assert_eq!(
        stage.text(),
        "1970-01-01T00:00:00.000Z 7: one\n1970-01-01T00:00:00.000Z 7: two\n\
         1970-01-01T00:01:01.001Z portoland: exited with status 0\n\
         1970-01-01T00:00:00.000Z 8: three\n"
    );
    assert_eq!(mode(&stage.log.path()), 0o600);
    assert_eq!(mode(&stage.directory()), 0o700);
}

#[test]
fn both_outputs_of_a_job_are_one_stream() {
    let mut stage = Stage::new();
    let output = || Stdio::from(stage.log.input().try_clone_to_owned().expect("dup"));
    let status = Command::new("/bin/sh")
        .args(["-c", "echo out; echo err >&2; echo no end"])
        .args([""])
        .stdout(output())
        .stderr(output())
        .status();
    assert!(status.expect("sh").success());
    stage.log.flush(NOW);
    assert_eq!(stage.text(), stamped(&["out", "err", "no end"]));
}

#[test]
fn a_line_without_its_end_is_written_after_a_while() {
    let mut stage = Stage::new();
    assert_eq!(stage.log.due(NOW), None);
    stage.write("password: ");
    assert_eq!(stage.log.due(NOW), Some(Duration::from_millis(200)));
    assert!(!stage.log.path().exists());
    stage.log.drain(NOW + Duration::from_millis(200));
    assert_eq!(stage.log.due(NOW), None);
    assert_eq!(stage.text(), "1970-01-01T00:00:00.200Z 7: password: \n");
}

#[test]
fn a_note_comes_behind_what_the_job_wrote_before() {
    let mut stage = Stage::new();
    stage.output().write_all(b"a\nlast words").expect("write");
    stage.log.note("killed by signal 9", NOW);
    let note = format!("{STAMP_OF_SERVER}killed by signal 9\n");
    assert_eq!(stage.text(), stamped(&["a", "last words"]) + &note);
}

#[test]
fn ten_megabytes_without_a_line_end_are_cut_and_put_away() {
    let mut stage = Stage::new();
    let mut output = stage.output();
    let writer = thread::spawn(move || {
        for _ in 0..160 {
            output.write_all(&[b'x'; 64 << 10]).expect("write");
        }
    });
    while !writer.is_finished() {
        // For a moment only: that the writer is done does not make it readable.
        wait_for_output(&stage.log, Duration::from_millis(20));
        stage.log.drain(NOW);
    }
    writer.join().expect("the writer");
    stage.log.flush(NOW);
    let line = STAMP.len() + (16 << 10) + " [...]\n".len();
    let mut files = vec![stage.log.path()];
    files.extend((1..=3).map(|number| stage.old(number)));
    for file in &files {
        let text = fs::read_to_string(file).expect("a file");
        assert!(text.len() <= 1 << 20);
        assert!(text.ends_with('\n'));
        let whole = text.lines().filter(|text| text.len() + 1 == line).count();
        assert!(whole + 1 >= text.lines().count(), "{}", file.display());
        assert!(text.lines().all(|line| line.starts_with(STAMP)));
    }
    assert!(!stage.old(4).exists());
    assert_eq!(
        fs::read_dir(stage.directory()).expect("directory").count(),
        4
    );
}

#[test]
fn one_noisy_job_has_no_more_than_its_turn() {
    let mut stage = Stage::new();
    stage.write("");
    stage.output().write_all(&[b'\n'; 64 << 10]).expect("write");
    assert!(stage.log.drain(NOW));
    assert_eq!(stage.text().lines().count(), 32 << 10);
}

#[test]
fn junk_cannot_play_with_a_terminal() {
    let mut stage = Stage::new();
    let all: Vec<u8> = (0..=255).collect();
    stage.write([all.as_slice(), b"\n\x1b]0;title\x07\xe2\x80\xae\n"].concat());
    let text = stage.text();
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    assert!(text.chars().all(harmless), "{text:?}");
    assert!(text.contains("\\x1b]0;title\\x07\\u{202e}"), "{text:?}");
    assert!(text.contains("\\xfe\\xff\n"), "{text:?}");
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn files_are_put_away_by_size_and_no_line_is_in_two() {
    let mut stage = Stage::new();
    let line = STAMP.len() + 10;
    stage.log.set_limits(Limits {
        file_bytes: 3 * line as u64 + 5,
        old_files: 2,
    });
    for number in 0..11 {
        stage.write(format!("line {number:04}\n"));
    }
    let numbers = |path: &Path| {
        let text = fs::read_to_string(path).expect("a file");
        let numbers = text.lines().map(|line| line[STAMP.len() + 5..].to_owned());
        numbers.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(numbers(&stage.log.path()), "0009 0010");
    assert_eq!(numbers(&stage.old(1)), "0006 0007 0008");
    assert_eq!(numbers(&stage.old(2)), "0003 0004 0005");
    assert!(!stage.old(3).exists());
}

#[test]
fn many_lines_at_once_are_put_away_as_single_ones_are() {
    let mut stage = Stage::new();
    let line = STAMP.len() + 3;
    stage.log.set_limits(Limits {
        file_bytes: 2 * line as u64,
        old_files: 9,
    });
    let long = "x".repeat(3 * line);
    stage.write(format!("01\n02\n03\n{long}\n04\n"));
    let files = (0..=3).rev().map(|number| match number {
        0 => stage.log.path(),
        number => stage.old(number),
    });
    let texts: Vec<_> = files
        .map(|file| fs::read_to_string(file).expect("a file"))
        .collect();
    assert_eq!(
        texts,
        [
            stamped(&["01", "02"]),
            stamped(&["03"]),
            stamped(&[&long]),
            stamped(&["04"])
        ]
    );
}

#[test]
fn without_old_files_the_log_begins_anew() {
    let mut stage = Stage::new();
    stage.log.set_limits(Limits {
        file_bytes: 1,
        old_files: 0,
    });
    stage.write("a\nb\n");
    assert_eq!(stage.text(), stamped(&["b"]));
    assert_eq!(
        fs::read_dir(stage.directory()).expect("directory").count(),
        1
    );
}

#[test]
fn what_is_removed_or_renamed_is_made_again() {
    let mut stage = Stage::new();
    stage.write("a\n");
    fs::rename(stage.log.path(), stage.root.path().join("taken")).expect("rename");
    stage.write("b\n");
    assert_eq!(stage.text(), stamped(&["b"]));
    fs::remove_dir_all(stage.directory()).expect("remove");
    stage.write("c\n");
    assert_eq!(stage.text(), stamped(&["c"]));
    assert!(stage.log.lost().is_none());
}

/// Puts something in the place of the log with `spoil`, and takes it away again.
fn lines_are_counted_while(spoil: impl Fn(&Stage), mend: impl Fn(&Stage), errno: i32) {
    let mut stage = Stage::new();
    stage.write("a\n");
    spoil(&stage);
    stage.write("b\nc\n");
    stage.write("d\n");
    let (lines, error) = stage.log.lost().expect("lost");
    assert_eq!((lines, error.raw_os_error()), (3, Some(errno)), "{error}");
    mend(&stage);
    stage.write("e\n");
    assert!(stage.log.lost().is_none());
    let text = stage.text();
    let lost = format!("{STAMP_OF_SERVER}3 lines before this one could not be written: ");
    let end: Vec<&str> = text.lines().rev().take(2).collect();
    assert_eq!(end[0], format!("{STAMP}e"));
    assert!(end[1].starts_with(&lost), "{text}");
}

#[test]
fn a_symbolic_link_in_the_place_of_the_log_is_not_followed() {
    let victim = tempfile::NamedTempFile::new().expect("a file");
    let path = victim.path();
    lines_are_counted_while(
        |stage| {
            fs::remove_file(stage.log.path()).expect("remove");
            symlink(path, stage.log.path()).expect("symlink");
        },
        |stage| fs::remove_file(stage.log.path()).expect("remove"),
        rustix::io::Errno::LOOP.raw_os_error(),
    );
    assert_eq!(fs::read(path).expect("read"), b"");
}

#[test]
fn a_symbolic_link_in_the_place_of_the_directory_is_not_followed() {
    let victim = tempfile::tempdir().expect("a directory");
    let path = victim.path();
    lines_are_counted_while(
        |stage| {
            fs::remove_dir_all(stage.directory()).expect("remove");
            symlink(path, stage.directory()).expect("symlink");
        },
        |stage| fs::remove_file(stage.directory()).expect("remove"),
        rustix::io::Errno::NOTDIR.raw_os_error(),
    );
    assert_eq!(fs::read_dir(path).expect("directory").count(), 0);
}

#[test]
fn a_pipe_in_the_place_of_the_log_is_not_waited_for() {
    lines_are_counted_while(
        |stage| {
            fs::remove_file(stage.log.path()).expect("remove");
            let status = Command::new("mkfifo").arg(stage.log.path()).status();
            assert!(status.expect("mkfifo").success());
        },
        |stage| fs::remove_file(stage.log.path()).expect("remove"),
        rustix::io::Errno::NXIO.raw_os_error(),
    );
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    lines_are_counted_while(
        |stage| {
            fs::set_permissions(stage.directory(), Permissions::from_mode(0o777)).expect("chmod");
        },
        |stage| {
            fs::set_permissions(stage.directory(), Permissions::from_mode(0o700)).expect("chmod");
        },
        rustix::io::Errno::PERM.raw_os_error(),
    );
}

#[test]
fn the_pipe_outlives_the_server() {
    let mut stage = Stage::new();
    let mut output = stage.output();
    stage.write("a\n");
    output.write_all(b"b\n").expect("write");
    let own =
        |fd: std::os::fd::BorrowedFd<'_>| -> OwnedFd { fd.try_clone_to_owned().expect("dup") };
    let descriptors = stage.log.descriptors().map(own);
    let directory = stage.directory();
    stage.log = JobLog::resume(&directory, &label(), descriptors).expect("resume");
    stage.log.set_pid(Some(7));
    output.write_all(b"c\n").expect("write");
    assert!(!stage.log.drain(NOW));
    assert_eq!(stage.text(), stamped(&["a", "b", "c"]));
}

#[test]
fn what_a_killed_server_has_taken_is_written_by_the_next() {
    let mut stage = Stage::new();
    let mut output = stage.output();
    let directory = stage.directory();
    let mut expected = Vec::new();
    for round in 0..40 {
        // The beginning of a line is with the server, and its end comes to the next one.
        let line = format!("line {round} {}", "x".repeat(round * 100));
        output.write_all(line.as_bytes()).expect("write");
        stage.log.drain(NOW);
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("dup");
        let descriptors = stage.log.descriptors().map(own);
        stage.log = JobLog::resume(&directory, &label(), descriptors).expect("resume");
        stage.log.set_pid(Some(7));
        if round % 3 == 0 {
            output.write_all(b" and the rest\nnext").expect("write");
            expected.push(format!("{line} and the rest"));
            expected.push("next".to_owned());
        } else {
            expected.push(line);
        }
        output.write_all(b"\n").expect("write");
        stage.log.drain(NOW);
    }
    let lines: Vec<_> = expected.iter().map(String::as_str).collect();
    assert_eq!(stage.text(), stamped(&lines));
}

#[test]
fn a_server_that_was_killed_while_it_cleared_away_has_left_nothing() {
    let mut stage = Stage::new();
    let mut output = stage.output();
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("dup");
    let descriptors = stage.log.descriptors().map(own);
    // What lies between a server and its file was cut off, and its offset was not set back yet.
    rustix::fs::seek(&descriptors[2], rustix::fs::SeekFrom::Start(100)).expect("seek");
    let directory = stage.directory();
    stage.log = JobLog::resume(&directory, &label(), descriptors).expect("resume");
    stage.log.set_pid(Some(7));
    output.write_all(b"a\nb\n").expect("write");
    stage.log.drain(NOW);
    assert_eq!(stage.text(), stamped(&["a", "b"]));
}

fn read(reader: &mut Reader) -> String {
    let mut text = Vec::new();
    reader.more(&mut text).expect("read");
    String::from_utf8(text).expect("UTF-8")
}

fn last(reader: &mut Reader, lines: impl Into<Option<usize>>) -> String {
    let mut text = Vec::new();
    reader.last(lines.into(), &mut text).expect("read");
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn a_reader_has_all_files_in_order() {
    let mut stage = Stage::new();
    stage.log.set_limits(Limits {
        file_bytes: 2 * STAMP.len() as u64 + 4,
        old_files: 3,
    });
    for line in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
        stage.write(line);
    }
    let mut reader = Reader::open(&stage.directory(), &label()).expect("a reader");
    assert_eq!(last(&mut reader, None), stamped(&["a", "b", "c", "d", "e"]));
    assert_eq!(last(&mut reader, 2), stamped(&["d", "e"]));
    assert_eq!(last(&mut reader, 99), stamped(&["a", "b", "c", "d", "e"]));
    assert_eq!(last(&mut reader, 0), "");
    assert_eq!(read(&mut reader), "");
}

#[test]
fn a_reader_follows_across_files() {
    let mut stage = Stage::new();
    stage.log.set_limits(Limits {
        file_bytes: 2 * STAMP.len() as u64 + 4,
        old_files: 3,
    });
    stage.write("a\n");
    let mut reader = Reader::open(&stage.directory(), &label()).expect("a reader");
    assert_eq!(last(&mut reader, 1), stamped(&["a"]));
    stage.write("b\n");
    reader.wait().expect("wait");
    assert_eq!(read(&mut reader), stamped(&["b"]));
    // More than one file is put away before it looks again.
    stage.write("c\nd\ne\nf\ng\n");
    reader.wait().expect("wait");
    assert_eq!(read(&mut reader), stamped(&["c", "d", "e", "f", "g"]));
    fs::remove_file(stage.log.path()).expect("remove");
    stage.write("h\n");
    assert_eq!(read(&mut reader), stamped(&["h"]), "and nothing twice");
}

#[test]
fn a_reader_that_follows_sees_each_line_once() {
    const LINES: usize = 5000;
    let mut stage = Stage::new();
    stage.log.set_limits(Limits {
        file_bytes: 64 << 10,
        old_files: 9,
    });
    stage.write("begin\n");
    let mut reader = Reader::open(&stage.directory(), &label()).expect("a reader");
    let mut expected = vec!["begin".to_owned()];
    expected.extend((0..LINES).map(|number| format!("line {number}")));
    let writer = thread::spawn(move || {
        for number in 0..LINES {
            stage.write(format!("line {number}\n"));
        }
        stage
    });
    let mut text = last(&mut reader, None);
    while text.lines().count() <= LINES {
        reader.wait().expect("wait");
        text.push_str(&read(&mut reader));
    }
    drop(writer.join().expect("the writer"));
    let lines: Vec<&str> = text.lines().map(|line| &line[STAMP.len()..]).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_reader_says_what_is_missing() {
    let mut stage = Stage::new();
    let open = |stage: &Stage| Reader::open(&stage.directory(), &label());
    assert!(matches!(open(&stage), Err(ReadError::NoLog { .. })));
    stage.write("a\n");
    let mut reader = open(&stage).expect("a reader");
    fs::remove_file(stage.log.path()).expect("remove");
    assert!(matches!(open(&stage), Err(ReadError::NoLog { .. })));
    fs::remove_dir_all(stage.directory()).expect("remove");
    let gone = reader.more(&mut io::sink());
    assert!(matches!(gone, Err(ReadError::Gone { .. })), "{gone:?}");
}
