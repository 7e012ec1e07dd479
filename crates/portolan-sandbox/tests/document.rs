//! Documents in three formats: what is read, where it is, and what is written.

use std::fmt::Write as _;

use portolan_sandbox::document::{Document, DocumentError, Format, Item, Value, WriteError};
use proptest::prelude::*;

const FORMATS: [Format; 3] = [Format::Toml, Format::Xml, Format::Binary];

fn parse(text: &str) -> Document {
    Document::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn item(key: &str, value: Value) -> Item {
    let (key, offset) = (key.to_owned(), None);
    Item { key, offset, value }
}

/// Each key of a document, from the top, with its line and column.
fn places(document: &Document) -> String {
    let mut text = String::new();
    list(&document.items, document, &mut text);
    text
}

fn list(items: &[Item], document: &Document, text: &mut String) {
    for item in items {
        let at = item.offset.map(|offset| document.source.position(offset));
        let at = at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        writeln!(text, "{} {at}", item.key).expect("text");
        below(&item.value, document, text);
    }
}

fn below(value: &Value, document: &Document, text: &mut String) {
    match value {
        Value::Dictionary(items) => list(items, document, text),
        Value::Array(values) => values.iter().for_each(|value| below(value, document, text)),
        _ => {}
    }
}

#[test]
fn keys_at_every_depth_have_places() {
    let toml = "Z = 1\n[B]\nC = [{ D = 1 }, { D = 2 }]\nE.F = 3\n";
    assert_eq!(
        places(&parse(toml)),
        "Z 1:1\nB 2:2\nC 3:1\nD 3:8\nD 3:19\nE 4:1\nF 4:3\n"
    );
    let xml = "<plist><dict>\n<!-- <key>A</key> --><key>B</key>\n<array>\n\
               <dict><key>A</key><string><![CDATA[<key>A</key>]]></string></dict>\n\
               <dict>\n <key>A</key><true/></dict>\n</array>\n\
               <key>a&amp;b</key><true/>\n</dict></plist>";
    let xml = parse(xml);
    assert_eq!(places(&xml), "B 2:22\nA 4:7\nA 6:2\na&b 8:1\n");
    let binary = Document::parse(&xml.write(Format::Binary).expect("binary")).expect("document");
    assert_eq!(places(&binary), "B -\nA -\nA -\na&b -\n");
}

#[test]
fn keys_that_are_written_in_other_ways() {
    let xml = parse(
        "<plist><dict>\n<key >A</key><true/>\n<k:key>B</k:key><true/>\n<key>&#67;</key><true/>\n\
         <key>D</key ><true/></dict></plist>",
    );
    assert_eq!(places(&xml), "A 2:1\nB -\nC -\nD 5:1\n");
}

#[test]
fn character_data_is_text() {
    let xml = parse(
        "<plist><dict><!-- <![CDATA[ --><key>A</key><string>a<![CDATA[ <b> & &amp; <!-- ]]>c\
         <![CDATA[]]></string>\n<key>B</key><true/></dict></plist>",
    );
    let text = Value::String("a <b> & &amp; <!-- c".to_owned());
    let expected = [item("A", text), item("B", Value::Boolean(true))];
    assert_eq!(xml.items, expected);
    assert_eq!(places(&xml), "A 1:32\nB 2:1\n");
    let error = Document::parse(b"<plist><dict><key>A</key><string><![CDATA[\n</string>");
    assert!(error.is_err(), "it does not end");
}

#[test]
fn an_entity_that_xml_does_not_have_is_refused() {
    let text = |value: &str| {
        format!("<plist><dict>\n<!-- &x; --><key>A</key><string>{value}</string></dict></plist>")
    };
    let known = parse(&text("&amp;&lt;&gt;&quot;&apos;&#65;&#x42;<![CDATA[&x;]]>"));
    let expected = Value::String("&<>\"'AB&x;".to_owned());
    assert_eq!(known.items, [item("A", expected)]);
    for (value, column) in [("a&nbsp;", 34), ("a & b", 35), ("&", 33)] {
        let error = Document::parse(text(value).as_bytes()).expect_err(value);
        let DocumentError::UnknownEntity { at } = error else {
            panic!("{value}: {error:?}");
        };
        assert_eq!((at.line, at.column), (2, column));
    }
}

#[test]
fn the_three_formats_say_the_same() {
    let toml = parse(
        "B = true\nN = -7\nR = 1.5\nS = 'text'\nA = [1, 'two', [3]]\nHex = 0x1F\n[D]\nx.y = 'z'\n",
    );
    for from in FORMATS {
        let first = Document::parse(&toml.write(from).expect("write")).expect("read");
        assert_eq!(first.source.format, from);
        for to in FORMATS {
            let second = Document::parse(&first.write(to).expect("write")).expect("read");
            assert_eq!(
                Value::Dictionary(second.items),
                Value::Dictionary(toml.items.clone()),
                "{from:?} to {to:?}"
            );
        }
    }
}

#[test]
fn what_not_every_format_has_is_not_converted() {
    for value in [
        "<date>2020-01-02T03:04:05Z</date>",
        "<data>AAAA</data>",
        "<array><dict><key>x</key><data/></dict></array>",
    ] {
        let text = format!("<plist><dict><key>A</key>{value}</dict></plist>");
        let error = parse(&text).write(Format::Xml).expect_err(value);
        assert!(
            matches!(&error, WriteError::Other { key } if key == "A"),
            "{error:?}"
        );
    }
    let error = parse("A = 2020-01-02").write(Format::Toml);
    assert!(matches!(error, Err(WriteError::Other { .. })), "{error:?}");
}

#[test]
fn what_a_format_cannot_say_is_refused_rather_than_changed() {
    let control = parse("A = 1\nB = \"a\\u0001b\"\n");
    let error = control.write(Format::Xml);
    assert!(
        matches!(&error, Err(WriteError::Changed { key }) if key == "B"),
        "{error:?}"
    );
    let return_key = parse("[T]\n\"\\r\" = true\n");
    let error = return_key.write(Format::Xml);
    assert!(
        matches!(&error, Err(WriteError::Changed { key }) if key == "T"),
        "{error:?}"
    );
    for document in [control, return_key] {
        let binary = document.write(Format::Binary).expect("binary has it");
        let read = Document::parse(&binary).expect("read");
        assert_eq!(read.items, document.items);
    }

    let huge =
        parse("<plist><dict><key>A</key><integer>18446744073709551615</integer></dict></plist>");
    for format in FORMATS {
        let read = Document::parse(&huge.write(format).expect("write")).expect("read");
        assert_eq!(read.items, huge.items, "{format:?}");
    }

    let twice = parse("<plist><dict><key>A</key><true/><key>A</key><true/></dict></plist>");
    let error = twice.write(Format::Toml);
    assert!(error.is_err(), "{error:?}");
}

#[test]
fn keys_of_a_thousand_parts_do_no_harm() {
    let text = format!("{}a = 1\n", "a.".repeat(100_000));
    assert!(Document::parse(text.as_bytes()).is_err());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(|value| Value::Integer(value.into())),
        any::<f64>().prop_map(Value::Real),
        "[ -~äß€\t\n]{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            tables(inner).prop_map(Value::Dictionary),
        ]
    })
}

fn tables(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Item>> {
    let entries = prop::collection::btree_map("[A-Za-z. \"'=-]{0,6}", value, 0..4);
    entries.prop_map(|entries| {
        let items = entries.into_iter();
        items.map(|(key, value)| item(&key, value)).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(items in tables(values())) {
        let source = parse("").source;
        let document = Document { items, source };
        for format in FORMATS {
            let Ok(bytes) = document.write(format) else { continue };
            let read = Document::parse(&bytes).expect("own writing");
            prop_assert_eq!(
                Value::Dictionary(read.items),
                Value::Dictionary(document.items.clone())
            );
        }
        prop_assert!(document.write(Format::Binary).is_ok());
    }

    #[test]
    fn xml_never_panics(parts in prop::collection::vec(prop::sample::select(&[
        "<!--", "-->", "<![CDATA[", "]]>", "<key>", "</key>", "<key", ">", "&", "amp;", "é", "<dict>",
        "</dict>", "<string>", "</string>", "<!", "<plist>",
    ]), 0..30)) {
        let text = format!("<plist><dict>{}", parts.concat());
        if let Ok(document) = Document::parse(text.as_bytes()) {
            places(&document);
        }
    }

    #[test]
    fn bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        let start: &[u8] = match kind { 0 => b"", 1 => b"<plist><dict><key>", _ => b"bplist00" };
        bytes.splice(..0, start.iter().copied());
        if let Ok(document) = Document::parse(&bytes) {
            places(&document);
            for format in FORMATS {
                document.write(format).ok();
            }
        }
    }

    /// A file with a byte changed.
    #[test]
    fn broken_files_never_panic(format in 0_usize..3, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let document = parse("A = 1\nB = [1, 'x']\n[C]\n'd e' = -1.5\n");
        let mut bytes = document.write(FORMATS[format]).expect("write");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(document) = Document::parse(&bytes) {
            places(&document);
            document.write(Format::Toml).ok();
        }
    }
}
