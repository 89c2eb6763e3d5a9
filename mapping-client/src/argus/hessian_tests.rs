use super::*;

/// The first bytes of a request that the C client of Argus sent.
#[test]
fn a_request_starts_as_the_c_client_writes_it() {
    let subject = Value::Object("org.glite.authz.common.model.Subject".into(), Vec::new());
    let request = Value::Object(
        "org.glite.authz.common.model.Request".into(),
        vec![("subjects".into(), Value::List(vec![subject]))],
    );
    let mut expected = b"Mt\x00\x24org.glite.authz.common.model.Request".to_vec();
    expected.extend(b"S\x00\x08subjectsVl\x00\x00\x00\x01Mt\x00\x24org.glite.authz.common.model.Subjectzzz");
    assert_eq!(request.encode(), expected);
}

#[test]
fn what_is_written_is_read() {
    let long = "é".repeat(CHUNK + 10);
    let value = Value::Object(
        "C".into(),
        vec![
            ("number".into(), Value::Integer(-2)),
            ("text".into(), Value::Text(long.clone())),
            ("none".into(), Value::Null),
            ("list".into(), Value::List(vec![Value::Text("a\u{1f600}b".into()), Value::Integer(7)])),
        ],
    );
    let document = decode(&value.encode()).unwrap();
    let root = document.root();
    assert_eq!(root.class(), Some("C"));
    assert_eq!(root.field("number").unwrap().integer(), Some(-2));
    assert_eq!(root.field("text").unwrap().text(), Some(long.as_str()));
    assert_eq!(root.field("none").unwrap().text(), None);
    let items = root.field("list").unwrap().items().unwrap();
    assert_eq!((items[0].text(), items[1].integer()), (Some("a\u{1f600}b"), Some(7)));
}

#[test]
fn references_count_lists_and_objects_in_the_order_in_which_they_start() {
    // An object (0) with a list (1) of one object (2), and a field that refers to the latter.
    let bytes = b"Mt\x00\x01CS\x00\x01aVMt\x00\x01DS\x00\x01kI\x00\x00\x00\x05zzS\x00\x01bR\x00\x00\x00\x02z";
    let document = decode(bytes).unwrap();
    let again = document.root().field("b").unwrap();
    assert_eq!((again.class(), again.field("k").unwrap().integer()), (Some("D"), Some(5)));
}

#[test]
fn hostile_documents_end_with_an_error() {
    let deep = [&b"V".repeat(100)[..], &b"z".repeat(100)].concat();
    let many = [b"V".to_vec(), b"N".repeat(MAX_VALUES + 1), b"z".to_vec()].concat();
    for (bytes, why) in [
        (&b""[..], "ends in the middle"),
        (b"S\x00\x05abc", "ends in the middle"),
        (b"S\x00\x01\xf0\x9f\x98\x80", "within a character"),
        (b"S\x00\x01\xff", "within a character"),
        (b"S\x00\x02\xc3(a", "not UTF-8"),
        (b"s\x00\x01aI", "not continued"),
        (b"R\x00\x00\x00\x00", "reference to nothing"),
        (b"R\xff\xff\xff\xff", "reference to nothing"),
        (b"D12345678", "does not use"),
        (b"NN", "left over"),
        (b"V", "ends in the middle"),
        (&deep, "levels"),
        (&many, "values"),
    ] {
        let reason = decode(bytes).unwrap_err();
        assert!(reason.contains(why), "{bytes:?}: {reason}");
    }
}

#[test]
fn an_object_that_refers_to_itself_is_read_once() {
    let document = decode(b"Mt\x00\x01CS\x00\x01aR\x00\x00\x00\x00z").unwrap();
    let inner = document.root().field("a").unwrap().field("a").unwrap();
    assert_eq!(inner.class(), Some("C"));
}

#[test]
fn a_field_that_stands_twice_is_none() {
    let document = decode(b"Mt\x00\x01CS\x00\x01aI\x00\x00\x00\x00S\x00\x01aI\x00\x00\x00\x01z").unwrap();
    assert!(document.root().field("a").is_none());
}
