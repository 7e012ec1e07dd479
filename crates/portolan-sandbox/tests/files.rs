//! Entitlement files in their three formats, right and wrong.

use portolan_sandbox::{Entitlements, EntitlementsError, Position};

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
        assert_eq!(nearest, "com.apple.security.application-groups");
        assert_eq!(at, Some(Position { line, column }), "{text}");
    }
    let error = Entitlements::parse(&binary(&misspelt(XML))).expect_err("it is wrong");
    assert!(matches!(
        error,
        EntitlementsError::UnknownKey { at: None, .. }
    ));
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
fn broken_files_are_refused_with_what_is_known() {
    assert_eq!(fails("a = 1\nb = [").position().map(|at| at.line), Some(2));
    assert!(matches!(
        fails("<plist><dict>"),
        EntitlementsError::PropertyList { .. }
    ));
    assert!(matches!(
        fails("<plist><array/></plist>"),
        EntitlementsError::NotATable
    ));
    let error = Entitlements::parse(b"a = '\xff'").expect_err("not UTF-8");
    assert!(matches!(error, EntitlementsError::NotUtf8(_)));
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
