use super::*;

const HEAD: &str =
    "path = /usr/lib/lcmaps\ngood = \"lcmaps_dummy_good.mod\"\nbad = \"lcmaps_dummy_bad.mod\"\n";

fn parse(rest: &str) -> Result<Database, Broken> {
    let database = Database::parse(&format!("{HEAD}{rest}"))?;
    database.policies.iter().try_for_each(|p| database.runnable(p))?;
    Ok(database)
}

fn line_of(rest: &str) -> usize {
    parse(rest).unwrap_err().line
}

#[test]
fn strings_are_joined_across_lines_and_comments() {
    let db = parse(
        "la =  # account\n \"lcmaps_localaccount.mod\"\"-gridmapfile\"\n  # the file \"of\" users\n\n  \"/etc/map\"\np:\nla -> good\n",
    )
    .unwrap();
    let la = &db.modules["la"];
    assert_eq!(
        (la.file.as_str(), la.line, la.kind().as_str()),
        ("lcmaps_localaccount.mod", 4, "localaccount")
    );
    let words: Vec<_> = la.arguments.iter().map(|w| (w.text.as_str(), w.line)).collect();
    assert_eq!(words, [("-gridmapfile", 5), ("/etc/map", 8)]);
}

#[test]
fn rules_are_free_of_lines() {
    let db = parse("p: # first\ngood ->\n bad\n | good2\nq:\n~bad->good\ngood2x:\n").unwrap_err();
    assert!(db.reason.contains("\"good2\" is not defined"), "{db:?}");
    let db = parse("p:\ngood -> bad\n").unwrap();
    let rule = db.policies[0].rule("good").unwrap();
    assert_eq!((rule.success.as_ref().map(|w| w.line), rule.failure.as_ref()), (Some(5), None));
    let db = parse("q:\n~bad->good\n").unwrap();
    let rule = db.policies[0].rule("bad").unwrap();
    assert!(rule.success.is_none() && rule.failure.is_some());
}

#[test]
fn copies_of_a_plug_in_are_the_plug_in() {
    let db = parse("v = \"/opt/lcmaps_voms_localaccount2.mod\"\nw = v\np:\nv -> w\n").unwrap();
    assert_eq!(
        (db.modules["v"].kind(), db.modules["w"].kind()),
        ("voms_localaccount".into(), "voms_localaccount".into())
    );
}

#[test]
fn a_backslash_continues_and_is_told() {
    let db =
        parse("la = \"lcmaps_localaccount.mod\" \\\n \"-gridmapfile /etc/map\"\np:\nla -> good\n").unwrap();
    assert_eq!((db.continued, db.modules["la"].arguments.len()), (vec![4], 2));
}

/// Each of these keeps the real LCMAPS 1.6.6 from starting, which `tests/tests/oracle_mapfiles.rs` shows.
const BROKEN: &[(&str, usize)] = &[
    ("x = \"lcmaps_localaccount.mod\np:\ngood -> bad\n", 4),
    ("foo bar\np:\ngood -> bad\n", 4),
    ("good = \"lcmaps_dummy_bad.mod\"\np:\ngood -> bad\n", 4),
    ("good -> bad\n", 4),
    ("p:\ngood\n", 5),
    ("p:\n\"good\" -> bad\n", 5),
    ("p : good -> bad\n", 4),
    ("p:\ngood -> bad\ngood -> good\n", 6),
    ("p:\ngood -> bad\np:\nbad -> good\n", 6),
    ("p:\ngood -> nothere\n", 5),
    ("p:\ngood -> bad\nbad -> good\n", 6),
    ("q:\ngood -> bad\np:\nbad -> q\n", 7),
    ("a-b = \"lcmaps_dummy_good.mod\"\np:\ngood -> bad\n", 4),
    ("p:\ngood -> bad\nlate = \"lcmaps_dummy_good.mod\"\n", 6),
    ("p:\n~good -> bad | bad\n", 5),
    ("// no comment\np:\ngood -> bad\n", 4),
    ("p:\ngood -> bad |\n", 5),
];

#[test]
fn what_lcmaps_refuses_is_refused_with_its_line() {
    for (text, line) in BROKEN {
        assert_eq!(line_of(text), *line, "{text}");
    }
    assert_eq!(Database::parse("").unwrap_err().line, 1);
}

#[test]
fn many_ways_to_one_place_are_no_circle() {
    let mut text: String = (0..60).map(|n| format!("b{n} = \"lcmaps_ban_dn.mod\"\n")).collect();
    text.push_str("p:\n");
    text.extend((0..59).map(|n| format!("b{n} -> b{} | b{}\n", n + 1, n + 1)));
    assert!(parse(&text).is_ok());
    assert!(parse(&(text + "b59 -> b0\n")).unwrap_err().reason.contains("lead back to"));
}
