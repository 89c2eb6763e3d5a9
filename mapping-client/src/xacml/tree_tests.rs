use super::*;

fn reason(xml: &str) -> String {
    parse(xml.as_bytes()).expect_err(xml).to_string()
}

#[test]
fn prefixes_do_not_matter_but_namespaces_do() {
    for xml in [r#"<a:r xmlns:a="urn:x"><a:c/></a:r>"#, r#"<r xmlns="urn:x"><c/></r>"#] {
        let root = parse(xml.as_bytes()).unwrap();
        assert!(root.is("urn:x", "r") && root.one("urn:x", "c").unwrap().is_some(), "{xml}");
        assert!(root.one("urn:y", "c").unwrap().is_none());
    }
}

#[test]
fn text_comes_with_references_and_cdata_resolved() {
    let root = parse(b"<r>a &lt;b&gt; &#65;&#x42; <!-- no --><![CDATA[<&>]]></r>").unwrap();
    assert_eq!(root.text, "a <b> AB <&>");
}

#[test]
fn attributes_are_unescaped_and_types_resolved() {
    let xml = br#"<r a="1 &amp; 2" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns:t="urn:t" i:type="t:T"><c i:type="u:T"/></r>"#;
    let root = parse(xml).unwrap();
    assert_eq!(root.attribute("a"), Some("1 & 2"));
    assert_eq!(root.xsi_type, Some((Some("urn:t".into()), "T".into())));
    assert_eq!(root.children[0].xsi_type, Some((None, "T".into())));
}

#[test]
fn entity_bombs_and_external_entities_are_refused() {
    let bomb = r#"<!DOCTYPE r [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><r>&b;</r>"#;
    assert!(reason(bomb).contains("document type"), "{}", reason(bomb));
    let external = r#"<!DOCTYPE r SYSTEM "file:///etc/passwd"><r/>"#;
    assert!(reason(external).contains("document type"));
    assert!(reason("<r>&b;</r>").contains("unknown entity"));
    assert!(parse(br#"<r a="&b;"/>"#).is_err());
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for xml in [
        "",
        " ",
        "text",
        "<",
        "<r",
        "<r>",
        "<r></s>",
        "</r>",
        "<r/><r/>",
        "<r/>x",
        "x<r/>",
        "<r a=1/>",
        "<r a='1' a='2'/>",
        "<r a='1",
        "<p:r/>",
        "<r p:a='1'/>",
        "<r>&#0;</r>",
        "<r>&#1;</r>",
        "<r>&#x110000;</r>",
        "<r a='&#2;'/>",
        "<r>&</r>",
        "<r>\u{1}</r>",
        "<r><![CDATA[</r>",
        "<r><!-- </r>",
        "<?pi x?><r/>",
        "<r><?pi x?></r>",
    ] {
        assert!(parse(xml.as_bytes()).is_err(), "{xml:?} was accepted");
    }
    assert!(parse(b"<r>\xff</r>").is_err());
    assert!(parse("<r/>".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>().as_slice()).is_err());
}

#[test]
fn size_depth_and_number_are_bounded() {
    let deep = |n| "<a>".repeat(n) + &"</a>".repeat(n);
    assert!(parse(deep(32).as_bytes()).is_ok());
    assert!(reason(&deep(33)).contains("levels"));
    assert!(reason(&deep(100_000)).contains("levels"));
    assert!(reason(&format!("<r>{}</r>", "<a/>".repeat(5000))).contains("elements"));
    assert!(reason(&format!("<r>{}</r>", " ".repeat(MAX_MESSAGE))).contains("bytes"));
    let many: String = (0..65).map(|n| format!(" a{n}='1'")).collect();
    assert!(reason(&format!("<r{many}/>")).contains("attributes"));
    assert!(reason(&format!("<r a='{}'/>", "x".repeat(MAX_TAG))).contains("tag"));
    assert!(reason(&format!("<r xmlns='{}'/>", "x".repeat(300))).contains("namespace"));
}

#[test]
fn a_tag_of_a_megabyte_of_attributes_is_refused_quickly() {
    let many: String = (0..90_000).map(|n| format!(" x{n}=''")).collect();
    let start = std::time::Instant::now();
    assert!(parse(format!("<r{many}/>").as_bytes()).is_err());
    assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn every_prefix_and_every_flipped_byte_of_a_message_ends_in_a_result() {
    let xml = include_bytes!("../../tests/data/gums-mapped.xml");
    for end in 0..xml.len() {
        assert!(
            parse(&xml[..end]).is_err() || xml[end..].iter().all(u8::is_ascii_whitespace),
            "cut at {end}"
        );
    }
    for at in 0..xml.len() {
        for value in [0u8, b'<', b'&', b'"', b'>', 0xff] {
            let mut copy = xml.to_vec();
            copy[at] = value;
            let _ = crate::xacml::answer::parse(&copy);
        }
    }
}
