//! Exceptions for files.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::site::{Site, errors, output, tiers};

const FILES: &str = "com.apple.security.temporary-exception.files";

fn excepted(kind: &str, paths: &[&str]) -> String {
    format!("\"{FILES}.{kind}\" = {paths:?}\n")
}

#[test]
fn a_path_with_a_slash_at_its_end_is_a_directory_with_all_below_it() {
    for tier in tiers() {
        let site = Site::new();
        site.file("home/read/deep/file", "read\n");
        site.file("home/write/file", "written\n");
        let granted = excepted("home-relative-path.read-only", &["/read/"])
            + &excepted("home-relative-path.read-write", &["/write/"]);
        let home = site.home();
        let script = format!(
            "cd {home:?}; cat read/deep/file; cat write/file; ls read write
             echo x > read/deep/file; echo x > read/new
             echo more >> write/file; mkdir write/new && echo new > write/new/file
             mv write/new/file write/moved; rm write/file"
        );
        let ran = site.shell(tier, &granted, &script);
        let expected = "read\nwritten\nread:\ndeep\n\nwrite:\nfile\n";
        assert_eq!(output(&ran), expected, "{tier} {}", errors(&ran));
        assert_eq!(errors(&ran).lines().count(), 2, "{tier} {}", errors(&ran));
        let text = fs::read_to_string(home.join("write/moved")).expect("it was written");
        assert_eq!(text, "new\n");
        assert!(!home.join("write/file").exists() && !home.join("read/new").exists());
    }
}

#[test]
fn a_path_without_one_is_a_file() {
    for tier in tiers() {
        let site = Site::new();
        let file = site.file("outside/file", "text\n");
        let beside = site.file("outside/beside", "secret\n");
        let tree = site.file("tree/below", "secret\n");
        let names = [&file, &site.path("tree"), &site.path("missing")];
        let names = names.map(|path| path.to_str().expect("text"));
        let granted = excepted("absolute-path.read-write", &names)
            + &excepted("absolute-path.read-only", &[&format!("{}/", names[0])]);
        let script = format!("cat {file:?}; echo more >> {file:?}; cat {beside:?} {tree:?}");
        let ran = site.shell(tier, &granted, &script);
        assert_eq!(output(&ran), "text\n", "{tier}");
        assert_eq!(fs::read_to_string(&file).expect("text"), "text\nmore\n");
        let said = errors(&ran);
        let refused = said.lines().filter(|line| line.contains("is not granted"));
        let refused: Vec<_> = refused.collect();
        assert!(
            matches!(refused[..], [no_directory, directory]
                if no_directory.contains("outside/file") && directory.contains("tree")),
            "{tier} {said}"
        );
    }
}

#[test]
fn a_link_is_followed_when_the_program_is_started() {
    for tier in tiers() {
        let site = Site::new();
        site.file("elsewhere/deep/file", "text\n");
        symlink("../elsewhere", site.path("home/relative")).expect("a link");
        symlink(site.path("home/relative/deep"), site.path("home/absolute")).expect("a link");
        let granted = excepted("home-relative-path.read-only", &["/absolute/"]);
        let (named, real) = (
            site.path("home/absolute/file"),
            site.path("elsewhere/deep/file"),
        );
        let through = site.path("home/relative/deep/file");
        let script = format!("cat {named:?} {real:?} {through:?}");
        let ran = site.shell(tier, &granted, &script);
        assert_eq!(output(&ran), "text\n".repeat(3), "{tier} {}", errors(&ran));
    }
}

#[test]
fn of_a_home_all_is_granted_but_what_is_portolans() {
    for tier in tiers() {
        let mut site = Site::new();
        site.file("home/documents/file", "text\n");
        site.file("home/.config/app/settings", "settings\n");
        let other = site.file(
            "home/.local/share/portolan/Containers/other/Data/secret",
            "secret",
        );
        let jobs = site.directory("home/.config/portolan/jobs");
        let runtime = site.file("home/run/portolan/bootstrap.log", "secret");
        site.kept_out.push(site.path("home/run/portolan"));
        let granted = excepted("home-relative-path.read-write", &["/"]);
        let home = site.path("home");
        let script = format!(
            "cd {home:?}; cat documents/file .config/app/settings; echo kept > $HOME/kept
             echo new > documents/new; cat {other:?}; cat {runtime:?}
             echo x > {jobs:?}/evil.toml; mv .config elsewhere; rm {runtime:?}; ls .local/share/portolan/Containers | grep other
             ln documents/file .config/portolan/jobs/evil.toml; mv documents .config/portolan/jobs"
        );
        let ran = site.shell(tier, &granted, &script);
        assert_eq!(output(&ran), "text\nsettings\n", "{tier} {}", errors(&ran));
        let inside = [other.as_path(), &runtime, &site.path("home/documents/new")];
        assert!(inside.iter().all(|path| path.exists()), "{tier}");
        assert_eq!(
            fs::read_dir(&jobs).expect("it is there").count(),
            0,
            "{tier}"
        );
        let kept = format!(
            "home/.local/share/portolan/Containers/{}/Data/kept",
            crate::site::LABEL
        );
        assert!(site.path(&kept).exists(), "{tier}");
    }
}

#[test]
fn what_is_portolans_need_not_be_there_to_be_kept_out() {
    for tier in tiers() {
        let site = Site::new();
        let jobs = site.path("home/.config/portolan/jobs");
        site.directory("home/.config");
        let granted = excepted("home-relative-path.read-write", &["/.config/"]);
        let script = format!("mkdir -p {jobs:?}; ln -s $HOME {jobs:?}; true");
        site.shell(tier, &granted, &script);
        let left = fs::read_dir(site.path("home/.config"))
            .expect("it is there")
            .count();
        assert_eq!(left, 0, "{tier}");
    }
}

#[test]
fn no_exception_is_for_what_is_portolans_or_the_kernels() {
    for tier in tiers() {
        let site = Site::new();
        let other = site.file(
            "home/.local/share/portolan/Containers/other/Data/secret",
            "secret",
        );
        symlink(".local/share/portolan/Containers", site.path("home/link")).expect("a link");
        let granted = excepted("home-relative-path.read-only", &["/link/other/"])
            + &excepted(
                "absolute-path.read-only",
                &["/proc/", "/proc/self/cwd/etc/passwd"],
            )
            + &excepted("absolute-path.read-write", &["/sys/", "/dev/shm/"]);
        let name = format!("{}", std::process::id());
        let script = format!(
            "cat {other:?} {:?} /proc/self/cwd/etc/passwd /proc/cpuinfo; ls /sys; echo x > /dev/shm/{name}",
            site.path("home/link/other/Data/secret")
        );
        let ran = site.shell(tier, &granted, &script);
        assert_eq!(output(&ran), "", "{tier}");
        assert!(
            !std::path::Path::new("/dev/shm").join(name).exists(),
            "{tier}"
        );
        let said = errors(&ran);
        assert_eq!(said.matches("is not granted").count(), 5, "{tier} {said}");
    }
}

/// Statement 6, where it is hardest: the socket's directory, and that above it, are excepted.
#[test]
fn w06_the_servers_socket_is_not_reached_with_an_exception_for_its_directory() {
    for tier in tiers() {
        let mut site = Site::new();
        let runtime = site.directory("run/portolan");
        let beside = site.directory("run/beside");
        let _server = UnixListener::bind(runtime.join("bootstrap")).expect("a socket");
        site.give(&runtime.join("bootstrap"));
        site.kept_out.push(runtime.clone());
        symlink("../portolan/bootstrap", beside.join("link")).expect("a link");
        let above = format!("{}/", site.path("run").display());
        let itself = format!("{}/", runtime.display());
        let granted = excepted("absolute-path.read-write", &[&above, &itself])
            + "\"com.apple.security.application-groups\" = \"group.granted\"\n";
        for path in [runtime.join("bootstrap"), beside.join("link")] {
            let script = format!(
                "import socket\n\
                 socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect({path:?})\n\
                 print('reached')"
            );
            let ran = site.run(tier, &granted, "/usr/bin/python3", &["-c", &script]);
            assert_eq!(output(&ran), "", "{tier}");
            let said = errors(&ran);
            assert!(said.contains("Error: [Errno"), "{tier} {said}");
        }
    }
}

#[test]
fn folders_are_where_the_user_has_them() {
    const KEYS: &str = "\"com.apple.security.assets.music.read-only\" = true\n\
                        \"com.apple.security.files.downloads.read-write\" = true\n\
                        \"com.apple.security.assets.pictures.read-only\" = true\n\
                        \"com.apple.security.assets.movies.read-only\" = true\n";
    for tier in tiers() {
        let site = Site::new();
        let music = site.file("music/song", "song\n");
        let downloads = site.directory("home/Downloads");
        let secret = site.file("home/secret", "secret\n");
        let video = site.file("home/Videos/film", "film\n");
        let settings = format!(
            "XDG_MUSIC_DIR={:?}\nXDG_PICTURES_DIR=\"$HOME/\"\n",
            site.path("music")
        );
        site.file("home/.config/user-dirs.dirs", &settings);
        let script = format!(
            "cat {music:?} {video:?} {secret:?}; echo x > {music:?}; echo x > {downloads:?}/new"
        );
        let ran = site.shell(tier, KEYS, &script);
        assert_eq!(output(&ran), "song\nfilm\n", "{tier} {}", errors(&ran));
        assert!(downloads.join("new").exists(), "{tier} {}", errors(&ran));
        assert_eq!(
            fs::read_to_string(&music).expect("text"),
            "song\n",
            "{tier}"
        );
    }
}

/// How often a program is started while its places are exchanged for links.
const STARTS: u32 = 60;

/// What somebody else does who may write to a place: `x` is a file, a directory and links by turns.
fn exchange(place: &Path, links: &[PathBuf], go_on: &AtomicBool) {
    let x = place.join("x");
    let put = place.join("put");
    while go_on.load(Ordering::Relaxed) {
        fs::write(&put, "").expect("write");
        fs::rename(&put, &x).expect("rename");
        for link in links {
            symlink(link, &put).expect("a link");
            fs::rename(&put, &x).expect("rename");
        }
    }
}

#[test]
fn w02_a_place_that_is_exchanged_for_a_link_leads_nowhere() {
    for tier in tiers() {
        let site = Site::new();
        let victim = site.file("home/victim", "kept\n");
        let made = site.path("home/made");
        let place = site.directory("home/place");
        site.file("home/place/x", "");
        let granted = excepted("home-relative-path.read-only", &["/place/"])
            + &excepted("home-relative-path.read-write", &["/place/x"]);
        let go_on = AtomicBool::new(true);
        let links = [victim.clone(), made.clone()];
        thread::scope(|scope| {
            let attacker = scope.spawn(|| exchange(&place, &links, &go_on));
            for _ in 0..STARTS {
                // Whether it is started is chance.
                site.shell(tier, &granted, "exit");
            }
            go_on.store(false, Ordering::Relaxed);
            attacker.join().expect("the other program");
        });
        assert_eq!(fs::read_to_string(&victim).expect("it is there"), "kept\n");
        assert!(!made.exists(), "{tier}");
    }
}

#[test]
fn w05_nobodys_socket_is_moved_into_a_groups_container() {
    for tier in tiers() {
        let site = Site::new();
        let place = site.directory("home/place");
        let _socket = UnixListener::bind(place.join("socket")).expect("bind");
        site.give(&place.join("socket"));
        let granted = excepted("home-relative-path.read-write", &["/place/"])
            + "\"com.apple.security.application-groups\" = [\"group.a\"]\n";
        let script = format!(
            "cd {place:?}; to=\"$PORTOLAN_GROUP_CONTAINERS/group.a\"
             ln socket \"$to/linked\" && echo linked
             echo > file; mv file renamed && echo renamed; cp renamed \"$to/copied\" && echo copied
             python3 -c 'import os, sys; os.rename(\"socket\", sys.argv[1])' \"$to/moved\" && echo moved"
        );
        let ran = site.shell(tier, &granted, &script);
        assert_eq!(output(&ran), "renamed\ncopied\n", "{tier} {}", errors(&ran));
    }
}
