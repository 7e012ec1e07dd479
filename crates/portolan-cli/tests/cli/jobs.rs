//! `portolan job`: job files are checked and converted.

use crate::world::{Ran, World};

const GOOD: &str = "Label = 'org.example.good'\nProgram = '/bin/true'\n\
                    LimitLoadToSessionType = 'Aqua'\n";

const WRONG: &str = "Label = 'org.example.wrong'\nLimitLoadToSessionType = 'Aqua'\n\
                     Programm = '/bin/true'\n\
                     [Entitlements]\n'com.apple.security.application-groups' = ['nodot']\n";

/// Runs the command with a file as its last argument.
fn job<const N: usize>(world: &World, arguments: [&str; N], file: &std::path::Path) -> Ran {
    let mut command = world.command(["job"].iter().chain(&arguments));
    crate::world::ran(command.arg(file).output().expect("run"))
}

/// What was printed, with each file by its name alone.
fn lines(world: &World, printed: &[u8]) -> Vec<String> {
    let folder = format!("{}/", world.path("").display()).replace("//", "/");
    let text = String::from_utf8(printed.to_vec()).expect("text");
    text.lines().map(|line| line.replace(&folder, "")).collect()
}

#[test]
fn each_finding_has_its_place_and_what_to_do() {
    let world = World::new();
    let file = world.write("wrong.toml", WRONG);
    let ran = job(&world, ["lint"], &file);
    assert_eq!(
        lines(&world, &ran.stdout),
        [
            "wrong.toml:1:1: error: Program: missing, give Program or ProgramArguments",
            "wrong.toml:2:1: warning: LimitLoadToSessionType: has no meaning on Linux and is \
             ignored",
            "wrong.toml:3:1: error: Programm: unknown key, did you mean Program?",
            "wrong.toml:5:1: error: Entitlements: \"nodot\" is not the id of an application \
             group: an application group id is `group.<name>` or `<team>.<name>`",
        ]
    );
    ran.fails(78, "1 of 1 job files cannot be used");
}

#[test]
fn warnings_alone_are_no_failure() {
    let world = World::new();
    let ran = job(&world, ["lint"], &world.write("good.toml", GOOD));
    let expected = "good.toml:3:1: warning: LimitLoadToSessionType: has no meaning on Linux and \
                    is ignored";
    assert_eq!(lines(&world, &ran.ok()), [expected]);
    assert!(!world.runtime().exists(), "no server is asked");
}

#[test]
fn every_file_is_checked() {
    let world = World::new();
    let good = world.write("good.toml", GOOD);
    let missing = world.path("missing.toml");
    let broken = world.write("broken.toml", "a = 1\nb = [\n");
    let list = world.write("broken.plist", "<plist><dict>\n<key>a</key></plist>");
    let paths = [&missing, &broken, &good, &list].map(|path| path.to_str().expect("path"));
    let ran = world.run(["job", "lint", paths[0], paths[1], paths[2], paths[3]]);
    let lines = lines(&world, &ran.stdout);
    assert_eq!(
        lines[0],
        "missing.toml: error: cannot be read: No such file or directory (os error 2)"
    );
    assert!(
        lines[1].starts_with("broken.toml:2:6: error: "),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("good.toml:3:1: warning: "),
        "{lines:?}"
    );
    assert!(
        lines[3].starts_with("broken.plist:2:") && lines[3].contains("not a property list: "),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    ran.fails(78, "3 of 4 job files cannot be used");
}

#[test]
fn a_binary_file_has_the_path_of_keys() {
    let world = World::new();
    let text = format!("{GOOD}KeepAlive.NetworkState = true\n");
    let binary = job(
        &world,
        ["convert", "--to", "binary"],
        &world.write("a.toml", text),
    );
    let file = world.write("a.plist", binary.ok());
    let ran = job(&world, ["lint"], &file);
    let lines = lines(&world, &ran.ok());
    let expected = "a.plist: warning: KeepAlive.NetworkState: is not supported and is ignored; the \
                    job must do without it";
    assert!(lines.iter().any(|line| line == expected), "{lines:?}");
}

#[test]
fn findings_and_jobs_as_json() {
    let world = World::new();
    let ran = job(&world, ["lint", "--json"], &world.write("good.toml", GOOD));
    let files: serde_json::Value = serde_json::from_slice(&ran.ok()).expect("JSON");
    let file = &files[0];
    assert_eq!(file["job"]["Label"], "org.example.good");
    let finding = &file["findings"][0];
    assert_eq!(
        (&finding["line"], &finding["column"], &finding["severity"]),
        (&3.into(), &1.into(), &"warning".into())
    );
    let ran = job(
        &world,
        ["lint", "--json"],
        &world.write("wrong.toml", WRONG),
    );
    let files: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert!(files[0]["job"].is_null());
    assert_eq!(files[0]["findings"].as_array().map(Vec::len), Some(4));
    ran.fails(78, "1 of 1");
}

#[test]
fn a_round_through_all_formats_loses_nothing() {
    let world = World::new();
    let text = format!("# a comment\n{GOOD}Nice = -5\n[MachServices]\n'org.example.a' = true\n");
    let convert = |format, file| job(&world, ["convert", "--to", format], file).ok();
    let toml = world.write("a.toml", &text);
    let first = convert("toml", &toml);
    assert!(!String::from_utf8_lossy(&first).contains("comment"));
    let xml = world.write("a.xml", convert("xml", &toml));
    let binary = world.write("a.binary", convert("binary", &xml));
    assert_eq!(convert("toml", &binary), first);
    let start = std::fs::read(&xml).expect("file");
    assert!(start.starts_with(b"<?xml"));
    let read = |file| {
        let files = job(&world, ["lint", "--json"], file).ok();
        let files: serde_json::Value = serde_json::from_slice(&files).expect("JSON");
        files[0]["job"].clone()
    };
    assert_eq!(read(&toml), read(&binary));
}

#[test]
fn what_cannot_be_converted() {
    let world = World::new();
    let convert = |format, file| job(&world, ["convert", "--to", format], file);
    let wrong = world.write("wrong.toml", WRONG);
    convert("xml", &wrong).fails(78, "`portolan job lint` says why");
    let control = world.write("control.toml", format!("{GOOD}UserName = \"a\\u0001\"\n"));
    convert("xml", &control).fails(78, "UserName cannot be said in this format");
    convert("binary", &control).ok();
    let missing = world.path("missing");
    convert("xml", &missing).fails(78, "missing: No such file");
    convert("json", &control).fails(2, "possible values: toml, xml, binary");
}
