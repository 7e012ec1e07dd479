//! `kdbridge boot-args`.

use crate::{kdbridge, said};

#[test]
fn names_become_a_number_and_a_number_becomes_names() {
    let text = said(&["boot-args", "halt,nmi,arp"]);
    assert_eq!(text.lines().next(), Some("debug=0x45"));
    assert!(text.contains("stop at start"), "{text}");
    let text = said(&["boot-args", "0x45"]);
    assert_eq!(text.lines().next(), Some("halt,nmi,arp"));
    assert_eq!(text.lines().count(), 4);
    let text = said(&["boot-args", "debug=0x144"]);
    assert_eq!(text.lines().next(), Some("nmi,arp,log_pi_scrn"));
}

#[test]
fn every_flag_can_be_listed() {
    assert_eq!(said(&["boot-args", "--list"]).lines().count(), 20);
}

#[test]
fn a_misspelt_name_is_an_error_with_the_names_that_there_are() {
    let output = kdbridge(&["boot-args", "halt,nim"]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.contains("`nim`") && text.contains("nmi_btn_ena"),
        "{text}"
    );
}
