//! Entitlement files in their three formats, right and wrong.

use portolan_sandbox::document::{Document, DocumentError};
use portolan_sandbox::{Entitlements, EntitlementsError, Position, Reason};

const TOML: &str = r#"
"com.apple.security.app-sandbox" = true
"com.apple.security.application-groups" = ["group.a", "group.b"]
"com.apple.security.temporary-exception.mach-lookup.global-name" = "one"
"com.apple.security.network.client" = true
"#;

const DOTTED: &str = r#"
[com.apple.security]
app-sandbox = true
application-groups = ["group.a", "group.b"]
network.client = true
temporary-exception.mach-lookup.global-name = "one"
"#;

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
    <key>com.apple.security.app-sandbox</key>
    <true/>
    <key>com.apple.security.application-groups</key>
    <array><string>group.a</string><string>group.b</string></array>
    <key>com.apple.security.temporary-exception.mach-lookup.global-name</key>
    <string>one</string>
    <key>com.apple.security.network.client</key>
    <true/>
</dict>
</plist>
"#;

fn binary(xml: &str) -> Vec<u8> {
    let value = plist::Value::from_reader_xml(xml.as_bytes()).expect("property list");
    let mut bytes = Vec::new();
    value.to_writer_binary(&mut bytes).expect("write");
    bytes
}

#[test]
fn all_formats_say_the_same() {
    let expected = Entitlements::parse(TOML.as_bytes()).expect("TOML");
    assert!(expected.app_sandbox);
    assert_eq!(expected.application_groups.len(), 2);
    assert_eq!(expected.lookup_global, ["one"]);
    let marked = format!("\u{feff}{XML}");
    for bytes in [
        DOTTED.as_bytes(),
        XML.as_bytes(),
        marked.as_bytes(),
        &binary(XML),
    ] {
        assert_eq!(Entitlements::parse(bytes).expect("parse"), expected);
    }
}

fn fails(text: &str) -> EntitlementsError {
    Entitlements::parse(text.as_bytes()).expect_err("it is wrong")
}

#[test]
fn unknown_keys_are_refused_with_their_position_and_the_nearest_key() {
    let misspelt = |text: &str| text.replace("application-groups", "aplication-groups");
    for (text, line, column) in [(TOML, 3, 1), (DOTTED, 4, 1), (XML, 7, 5)] {
        let EntitlementsError::UnknownKey { key, at, nearest } = fails(&misspelt(text)) else {
            panic!("another error")
        };
        assert_eq!(key, "com.apple.security.aplication-groups");
        assert_eq!(nearest, Some("com.apple.security.application-groups"));
        assert_eq!(at, Some(Position { line, column }), "{text}");
    }
    let error = Entitlements::parse(&binary(&misspelt(XML))).expect_err("it is wrong");
    assert!(matches!(
        error,
        EntitlementsError::UnknownKey { at: None, .. }
    ));
}

#[test]
fn a_key_in_a_comment_is_not_the_one_meant() {
    let text =
        "<plist><dict>\n<!-- <key>x&amp;y</key> -->\n  <key>x&amp;y</key><true/></dict></plist>";
    assert_eq!(
        fails(text).position(),
        Some(Position { line: 3, column: 3 })
    );
}

#[test]
fn a_key_like_no_other_is_refused_without_a_guess() {
    let error = fails("colour = true");
    assert!(
        matches!(error, EntitlementsError::UnknownKey { nearest: None, .. }),
        "{error:?}"
    );
}

#[test]
fn a_key_with_two_values_is_refused_at_the_second() {
    let toml = "com.apple.security.app-sandbox = true\n'com.apple.security.app-sandbox' = false";
    let xml = "<plist><dict><key>com.apple.security.app-sandbox</key><true/>\n\
               <key>com.apple.security.app-sandbox</key><false/></dict></plist>";
    for text in [toml, xml] {
        let EntitlementsError::Repeated { at, .. } = fails(text) else {
            panic!("another error")
        };
        assert_eq!(at, Some(Position { line: 2, column: 1 }), "{text}");
    }
}

#[test]
fn a_dictionary_is_accepted_where_apple_has_one() {
    let toml = "'com.apple.security.scripting-targets' = { 'com.apple.mail' = ['compose'] }";
    let xml = "<plist><dict><key>com.apple.security.scripting-targets</key>\
               <dict><key>com.apple.mail</key><array><string>compose</string></array></dict>\
               </dict></plist>";
    for text in [toml, xml] {
        Entitlements::parse(text.as_bytes()).expect("a dictionary");
        assert!(matches!(
            fails(&text.replace("scripting-targets", "app-sandbox")),
            EntitlementsError::WrongType { at: Some(_), .. }
        ));
    }
}

/// Arrays of 255 references to the next one each, under one key: two kilobytes that stand for more
/// values than there is memory.
fn bomb(levels: u8) -> Vec<u8> {
    const WIDTH: u8 = 255;
    let key = b"com.apple.security.application-groups";
    let dictionary = vec![0xd1, 1, 2];
    let string = [&[0x5f, 0x10, key.len() as u8][..], key].concat();
    let mut objects = vec![dictionary, string];
    for level in 0..levels {
        let mut array = vec![0xaf, 0x10, WIDTH];
        array.resize(array.len() + usize::from(WIDTH), 3 + level);
        objects.push(array);
    }
    objects.push(vec![0x51, b'x']);
    let (mut bytes, mut offsets) = (b"bplist00".to_vec(), Vec::new());
    for object in &objects {
        offsets.extend((bytes.len() as u32).to_be_bytes());
        bytes.extend(object);
    }
    let table = bytes.len() as u64;
    bytes.extend(offsets);
    bytes.extend([0, 0, 0, 0, 0, 0, 4, 1]);
    for number in [objects.len() as u64, 0, table] {
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

#[test]
fn a_small_property_list_cannot_stand_for_a_huge_one() {
    let error = Entitlements::parse(&bomb(1)).expect_err("x is no group");
    assert!(matches!(error, EntitlementsError::Group { .. }), "{error}");
    for levels in [3, 7] {
        let error = Entitlements::parse(&bomb(levels)).expect_err("too much");
        assert!(
            matches!(
                error,
                EntitlementsError::Document(DocumentError::PropertyList { .. })
            ),
            "{error}"
        );
    }
}

#[test]
fn deep_nesting_is_refused() {
    let depth = 100_000;
    let (open, close) = ("<array>".repeat(depth), "</array>".repeat(depth));
    let error = fails(&format!("<plist>{open}{close}</plist>"));
    assert!(
        matches!(
            error,
            EntitlementsError::Document(DocumentError::PropertyList { .. })
        ),
        "{error}"
    );
}

#[test]
fn values_of_another_type_are_refused() {
    for text in [
        "'com.apple.security.app-sandbox' = 'yes'",
        "'com.apple.security.app-sandbox' = 1",
        "'com.apple.security.application-groups' = true",
        "'com.apple.security.application-groups' = ['group.a', 7]",
    ] {
        let error = fails(text);
        assert!(
            matches!(error, EntitlementsError::WrongType { at: Some(_), .. }),
            "{error:?}"
        );
    }
}

#[test]
fn groups_that_are_none_are_refused() {
    for group in ["", "nodot\\n", "a\\u0000b"] {
        let text = format!("'com.apple.security.application-groups' = [\"{group}\"]");
        assert!(
            matches!(fails(&text), EntitlementsError::Group { .. }),
            "{group:?}"
        );
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused_with_their_position() {
    const EXCEPTION: &str = "com.apple.security.temporary-exception.files";
    for path in [
        "Documents",
        "~/x",
        "/../bob",
        "/a/../../bob",
        "",
        "/a\\u0000b",
    ] {
        for kind in ["absolute-path.read-only", "home-relative-path.read-write"] {
            let text = format!("\n'{EXCEPTION}.{kind}' = ['/fine/', \"{path}\"]");
            let error = fails(&text);
            assert!(matches!(error, EntitlementsError::Path { .. }), "{error}");
            let position = Position { line: 2, column: 1 };
            assert_eq!(error.position(), Some(position), "{path:?}");
        }
    }
}

#[test]
fn keys_that_ask_in_vain_are_told_of() {
    let text = "'com.apple.security.files.user-selected.read-only' = true\n\
                'com.apple.security.files.user-selected.read-write' = false\n\
                'com.apple.security.print' = true\n\
                'com.apple.security.temporary-exception.sbpl' = []\n\
                'com.apple.security.files.downloads.read-only' = true\n";
    let document = Document::parse(text.as_bytes()).expect("TOML");
    let reading = Entitlements::from_items(document.items, &document.source);
    let ineffective = reading.expect("entitlements").ineffective;
    let found = ineffective.iter().map(|one| (one.key, one.at, one.reason));
    let found: Vec<_> = found.collect();
    let place = |line| Some(Position { line, column: 1 });
    let expected = [
        (
            "com.apple.security.files.user-selected.read-only",
            place(1),
            Reason::NobodySelects,
        ),
        ("com.apple.security.print", place(3), Reason::NotSupported),
    ];
    assert_eq!(found, expected);
}

#[test]
fn inherit_stands_beside_app_sandbox_only() {
    let sandbox = "'com.apple.security.app-sandbox' = true\n";
    let inherit = "'com.apple.security.inherit' = true\n";
    let group = "'com.apple.security.application-groups' = 'group.a'\n";
    let both = Entitlements::parse(format!("{sandbox}{inherit}").as_bytes()).expect("both");
    assert!(both.inherit && both.app_sandbox);
    for (text, line) in [
        (format!("{sandbox}{inherit}{group}"), 3),
        (format!("{group}{sandbox}{inherit}"), 1),
        (inherit.to_owned(), 1),
        (format!("{}{inherit}", sandbox.replace("true", "false")), 2),
    ] {
        let error = fails(&text);
        assert!(
            matches!(error, EntitlementsError::Inherit { .. }),
            "{error}"
        );
        assert_eq!(
            error.position(),
            Some(Position { line, column: 1 }),
            "{text}"
        );
    }
    let off = inherit.replace("true", "false");
    let off = Entitlements::parse(format!("{sandbox}{off}{group}").as_bytes());
    assert!(!off.expect("it is off").inherit);
}

#[test]
fn broken_files_are_refused_with_what_is_known() {
    assert_eq!(fails("a = 1\nb = [").position().map(|at| at.line), Some(2));
    let unclosed = fails("<plist><dict>\n<key>a</key></plist>");
    assert!(matches!(
        unclosed,
        EntitlementsError::Document(DocumentError::PropertyList { .. })
    ));
    assert_eq!(unclosed.position().map(|at| at.line), Some(2));
    assert!(matches!(
        fails("<plist><array/></plist>"),
        EntitlementsError::Document(DocumentError::NotATable)
    ));
    let error = Entitlements::parse(b"a = '\xff'").expect_err("not UTF-8");
    assert!(matches!(
        error,
        EntitlementsError::Document(DocumentError::NotUtf8(_))
    ));
    assert!(Entitlements::parse(b"bplist00garbage").is_err());
}

#[test]
fn an_empty_file_is_no_sandbox() {
    assert_eq!(
        Entitlements::parse(b"").expect("empty"),
        Entitlements::default()
    );
}

#[test]
fn a_file_error_names_the_file() {
    let directory = tempfile::tempdir().expect("directory");
    let missing = Entitlements::read(&directory.path().join("none.toml")).expect_err("missing");
    assert!(missing.to_string().ends_with("none.toml"), "{missing}");
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "x = 1\n").expect("write");
    let wrong = Entitlements::read(&path).expect_err("unknown key");
    assert!(wrong.to_string().ends_with("bad.toml:1:1"), "{wrong}");
}
