use super::*;
use crate::filter::Decision;
use crate::sum::{Groups, Key};
use crate::when::Moment;
use record::{Denied, Event, Exit, Opened, Spool, Subject, Usage};
use tempfile::TempDir;

const DAY: u64 = 86_400 * 1_000_000_000;
const NOON: u64 = 20_000 * DAY + DAY / 2;

fn id(n: u64) -> String {
    format!("019fb000-0000-7000-8000-{n:012x}")
}

/// One closed session of a minute that starts `n` minutes after noon; every tenth is a refusal.
fn put(spool: &Spool, n: u64) {
    let start = NOON + n * 60_000_000_000;
    let payload = Subject {
        dn: format!("/CN=user {}", n % 3),
        vo: Some(if n.is_multiple_of(2) { "cms" } else { "atlas" }.to_owned()),
        fqans: vec![format!("/{}/Role=NULL", if n.is_multiple_of(2) { "cms" } else { "atlas" })],
        ..Subject::default()
    };
    if n % 10 == 9 {
        let denied = Denied {
            record_id: id(n),
            host: "wn1.example.org".into(),
            at_unix_ns: start,
            code: 203,
            reason: "the DN is banned".into(),
            payload: Some(payload),
            ..Denied::default()
        };
        return spool.deny(&denied).unwrap();
    }
    let opened = Opened {
        record_id: id(n),
        host: format!("wn{}.example.org", n % 4),
        uid: 20_000 + u32::try_from(n % 5).unwrap(),
        account: format!("pool{}", n % 5),
        payload,
        batch: Some(record::Batch { lrms: "slurm".into(), jobid: (n / 8).to_string(), ..Default::default() }),
        cred_sha256: format!("{:064x}", u128::from(n) << 100),
        start_unix_ns: start,
        ..Opened::default()
    };
    let usage = Usage { wall_ns: 60_000_000_000, cpu_user_us: 30_000_000, ..Usage::default() };
    let exit = Exit { code: Some(i32::from(n.is_multiple_of(7))), ..Exit::default() };
    let end_unix_ns = start + 60_000_000_000;
    let close = Event::Close { end_unix_ns, usage: usage.into(), exit: exit.into(), clock_stepped: false };
    spool.open(&opened).unwrap().close(&close).unwrap();
}

struct Site {
    dir: TempDir,
}

impl Site {
    /// A site whose spool has `count` final records.
    fn new(count: u64) -> Self {
        let site = Self { dir: TempDir::new().unwrap() };
        std::fs::create_dir(site.dir.path().join("spool")).unwrap();
        (0..count).for_each(|n| put(&site.spool(), n));
        site
    }

    fn spool(&self) -> Spool {
        Spool::new(self.dir.path().join("spool"))
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn fold(&self, now: u64) -> fold::Folded {
        let mut writer = StoreWriter::open(&self.dir()).unwrap();
        fold::fold(&self.spool(), &mut writer, now).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.dir()).unwrap().unwrap()
    }

    fn day_file(&self) -> PathBuf {
        self.dir().join("journal/2024-10-04.jsonl")
    }
}

#[test]
fn folded_records_are_the_same_and_leave_the_spool() {
    let site = Site::new(30);
    let before: Vec<Record> = site.spool().records().unwrap().map(Result::unwrap).collect();
    let folded = site.fold(NOON);
    assert_eq!((folded.new, folded.known, folded.damaged.len()), (30, 0, 0));
    assert_eq!(site.spool().ids().unwrap(), Vec::<String>::new());
    let after = site.store().select(&Filter::default()).unwrap();
    let plain = |records: &[Record]| -> Vec<Record> {
        records.iter().map(|r| Record { path: PathBuf::new(), ..r.clone() }).collect()
    };
    assert_eq!(plain(&after), plain(&before));
    assert_eq!(site.store().verify(None).unwrap().records, 30);
    assert_eq!(site.fold(NOON).new, 0, "a second time there is nothing to do");
}

#[test]
fn index_and_records_answer_alike() {
    let site = Site::new(60);
    let all: Vec<Record> = site.spool().records().unwrap().map(Result::unwrap).collect();
    site.fold(NOON);
    let store = site.store();
    let at = |minutes: u64| Some(Moment(NOON + minutes * 60_000_000_000));
    let questions = [
        Filter { dn: Some("/CN=user 1".into()), ..Filter::default() },
        Filter { vo: Some("cms".into()), since: at(10), until: at(20), ..Filter::default() },
        Filter { fqan: Some("/atlas".into()), ..Filter::default() },
        Filter { uid: Some(20_003), host: Some("wn3".into()), at: at(23), ..Filter::default() },
        Filter { at: at(19), ..Filter::default() },
        Filter { cred_sha256: Some(format!("{:064x}", 17_u128 << 100)[..40].into()), ..Filter::default() },
        Filter { batch: Some(crate::filter::BatchName::parse("3@wn1")), ..Filter::default() },
        Filter { decision: Some(Decision::Denied), reason: Some("banned".into()), ..Filter::default() },
        Filter { decision: Some(Decision::Allowed), account: Some("pool2".into()), ..Filter::default() },
        Filter { exit: Some(crate::filter::ExitName::Code(1)), ..Filter::default() },
        Filter { exit: Some(crate::filter::ExitName::Code(203)), ..Filter::default() },
        Filter { running: true, ..Filter::default() },
        Filter { dn: Some("/CN=nobody".into()), ..Filter::default() },
    ];
    let mut found = 0;
    for filter in &questions {
        let expected: Vec<&str> = all.iter().filter(|r| filter.matches(r)).map(|r| r.id.as_str()).collect();
        let answer = store.select(filter).unwrap();
        assert_eq!(answer.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), expected, "{filter:?}");
        found += expected.len();
    }
    assert!(found > 60, "the questions find something");
}

#[test]
fn sums_of_days_and_of_records_are_equal() {
    let site = Site::new(60);
    let all: Vec<Record> = site.spool().records().unwrap().map(Result::unwrap).collect();
    site.fold(NOON);
    let store = site.store();
    let midnight = |day: u64| Some(Moment((20_000 + day) * DAY));
    let filters = [
        Filter::default(),
        Filter { since: midnight(0), until: midnight(1), ..Filter::default() },
        Filter { since: midnight(1), ..Filter::default() },
        Filter { vo: Some("cms".into()), decision: Some(Decision::Denied), ..Filter::default() },
        Filter {
            since: Some(Moment(NOON + 600_000_000_000)),
            decision: Some(Decision::Allowed),
            ..Filter::default()
        },
        Filter { batch: Some(crate::filter::BatchName::parse("3@wn1")), ..Filter::default() },
    ];
    let keys = [
        vec![],
        vec![Key::Vo, Key::User],
        vec![Key::Month, Key::Decision],
        vec![Key::Day, Key::Account, Key::Role],
        vec![Key::Host, Key::Exit],
        vec![Key::Fqan, Key::Batch, Key::Reason],
    ];
    for filter in &filters {
        for by in &keys {
            let mut expected = Groups::new();
            all.iter().for_each(|record| crate::sum::add(&mut expected, filter, by, record));
            assert_eq!(store.sums(filter, by).unwrap(), expected, "{filter:?} by {by:?}");
        }
    }
}

#[test]
fn a_changed_day_file_is_named_by_its_first_bad_line() {
    let site = Site::new(4);
    site.fold(NOON);
    let good = std::fs::read_to_string(site.day_file()).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    assert_eq!(lines.len(), 12, "open, close and seal each");
    let verify = |lines: &[&str]| {
        std::fs::write(site.day_file(), lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        site.store().verify(None).map(|proof| proof.records).map_err(|e| e.to_string())
    };
    assert_eq!(verify(&lines), Ok(4));
    assert!(lines[3].contains("pool1"));
    let mut bad = lines.clone();
    let open = lines[3].replace("pool1", "pool2");
    bad[3] = &open;
    assert!(verify(&bad).unwrap_err().contains("2024-10-04.jsonl:4: the line does not match its crc32c"));
    let cut = [&lines[..3], &lines[6..]].concat();
    assert!(verify(&cut).unwrap_err().contains("2024-10-04.jsonl:6: seal 3 does not follow seal 1"));
    let swapped = [&lines[..3], &lines[6..9], &lines[3..6], &lines[9..]].concat();
    assert!(verify(&swapped).unwrap_err().contains(":6: seal 3 does not follow"));
    let shortened = &lines[..9];
    assert!(verify(shortened).unwrap_err().contains("the index knows 4 records, the day files end at 3"));
    let inserted = [&lines[..3], &lines[..3], &lines[3..]].concat();
    assert!(verify(&inserted).unwrap_err().contains(":6: seal 1 does not follow seal 1"));
    let half = [&lines[..4], &lines[5..]].concat();
    assert!(verify(&half).unwrap_err().contains(":5: the record does not match its seal"));
}

#[test]
fn a_chain_that_was_made_anew_lacks_the_head_that_was_kept() {
    let site = Site::new(3);
    site.fold(NOON);
    let head = site.store().verify(None).unwrap().head.sha256;
    put(&site.spool(), 3);
    site.fold(NOON);
    assert!(site.store().verify(Some(&head)).unwrap().has_kept, "it only grew");
    let other = Site::new(4);
    other.fold(NOON + 1);
    assert!(!other.store().verify(Some(&"0".repeat(64))).unwrap().has_kept);
}

#[test]
fn the_index_is_made_again_from_the_day_files() {
    let site = Site::new(25);
    site.fold(NOON);
    put(&site.spool(), 25);
    site.fold(NOON + DAY);
    let before = site.store().select(&Filter::default()).unwrap();
    for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(site.dir().join(file));
    }
    assert!(Store::open(&site.dir()).unwrap().is_none());
    drop(StoreWriter::open(&site.dir()).unwrap());
    assert_eq!(site.store().select(&Filter::default()).unwrap(), before);
    assert_eq!(site.store().verify(None).unwrap().records, 26);
}

#[test]
fn a_writer_that_died_in_the_middle_costs_nothing() {
    let site = Site::new(3);
    let spooled: Vec<(String, Vec<u8>)> = site
        .spool()
        .ids()
        .unwrap()
        .into_iter()
        .map(|id| (id.clone(), site.spool().closed_bytes(&id).unwrap().1))
        .collect();
    site.fold(NOON);
    // Sealed and indexed, but not yet removed from the spool.
    for (id, bytes) in &spooled {
        std::fs::write(site.dir.path().join(format!("spool/closed/{id}.jsonl")), bytes).unwrap();
    }
    let again = site.fold(NOON);
    assert_eq!((again.new, again.known), (0, 3));
    // Written in part, without a seal.
    use std::io::Write;
    let mut file = OpenOptions::new().append(true).open(site.day_file()).unwrap();
    file.write_all(&spooled[0].1[..50]).unwrap();
    assert_eq!(site.store().verify(None).unwrap().unsealed, 50);
    put(&site.spool(), 3);
    assert_eq!(site.fold(NOON).new, 1);
    let proof = site.store().verify(None).unwrap();
    assert_eq!((proof.records, proof.unsealed), (4, 0));
}

#[test]
fn another_record_of_a_known_id_stays_in_the_spool() {
    let site = Site::new(1);
    site.fold(NOON);
    put(&site.spool(), 0);
    let folded = site.fold(NOON);
    assert_eq!(
        (folded.new, folded.known, folded.conflicts.len()),
        (0, 0, 1),
        "it was written at another time"
    );
    assert_eq!(site.spool().ids().unwrap().len(), 1);
}

#[test]
fn damaged_records_stay_and_are_named() {
    let site = Site::new(3);
    let path = site.dir.path().join(format!("spool/closed/{}.jsonl", id(1)));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    let folded = site.fold(NOON);
    assert_eq!((folded.new, folded.damaged.len()), (2, 1));
    assert!(path.exists());
}

#[test]
fn there_is_one_writer() {
    let site = Site::new(0);
    let _writer = StoreWriter::open(&site.dir()).unwrap();
    assert!(matches!(StoreWriter::open(&site.dir()), Err(StoreError::Locked { .. })));
}

#[test]
fn a_clock_that_was_set_back_keeps_the_order_of_day_files() {
    let site = Site::new(1);
    site.fold(NOON + 3 * DAY);
    put(&site.spool(), 1);
    site.fold(NOON);
    assert_eq!(site.store().verify(None).unwrap().records, 2);
    assert_eq!(Journal::new(site.dir().join("journal")).days().unwrap().len(), 1);
}

#[test]
fn ids_are_found_by_beginning_and_end() {
    let site = Site::new(20);
    site.fold(NOON);
    let store = site.store();
    assert_eq!(store.ids("00000007").unwrap(), [id(7)], "the eight characters that lists show");
    assert_eq!(store.ids("0013").unwrap(), [id(19)]);
    assert_eq!(store.ids(&id(3)).unwrap(), [id(3)]);
    assert_eq!(store.ids("019fb000").unwrap().len(), 20);
    assert_eq!(store.ids("ffff").unwrap(), Vec::<String>::new());
}

#[test]
fn a_store_that_others_may_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new(1);
    site.fold(NOON);
    let mode = |mode| std::fs::set_permissions(site.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert!(matches!(StoreWriter::open(&site.dir()), Err(StoreError::NotOurs { .. })));
    assert!(matches!(Store::open(&site.dir()), Err(StoreError::NotOurs { .. })));
    mode(0o700);
    assert!(Store::open(&site.dir()).unwrap().is_some());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(site.dir(), Some(65_533), None).unwrap();
        let error = StoreWriter::open(&site.dir()).err().unwrap().to_string();
        assert!(error.contains("belongs to uid 65533") && error.contains("mode 0700"), "{error}");
    }
}

/// A site with two days: one of long ago, and the one on which it is looked at.
fn aged(days: u64) -> (Site, u64) {
    let site = Site::new(20);
    site.fold(NOON);
    (20..24).for_each(|n| put(&site.spool(), n));
    let now = NOON + days * DAY;
    site.fold(now);
    (site, now)
}

fn reduce(site: &Site, now: u64) -> usize {
    StoreWriter::open(&site.dir()).unwrap().reduce(&reduce::Retention::default(), now).unwrap()
}

fn whole() -> Filter {
    Filter { decision: Some(Decision::Allowed), ..Filter::default() }
}

#[test]
fn what_may_not_be_kept_is_taken_out_and_the_chain_still_holds() {
    let (site, now) = aged(401);
    let kept = site.store().verify(None).unwrap();
    let by_vo = site.store().sums(&whole(), &[Key::Vo]).unwrap();
    let by_month = site.store().sums(&Filter::default(), &[Key::Month]).unwrap();
    assert_eq!((reduce(&site, now), reduce(&site, now)), (1, 0), "once is enough");
    let proof = site.store().verify(Some(&kept.head.sha256)).unwrap();
    assert_eq!((proof.records, proof.has_kept, &proof.head), (24, true, &kept.head));
    // Sums stay, persons are gone: from records, from names, from every file.
    for sums in [site.store(), {
        std::fs::remove_file(site.dir().join("index.sqlite")).unwrap();
        site.fold(now);
        site.store()
    }] {
        assert_eq!(sums.sums(&whole(), &[Key::Vo]).unwrap(), by_vo);
        assert_eq!(sums.sums(&Filter::default(), &[Key::Month]).unwrap(), by_month);
        let (old, _) = sums.record(&id(1)).unwrap().unwrap();
        let opened = old.opened.unwrap();
        assert_eq!((opened.payload.dn.as_str(), opened.account.as_str(), opened.uid), ("", "", u32::MAX));
        assert_eq!(opened.payload.vo.as_deref(), Some("atlas"));
        assert_eq!(sums.record(&id(21)).unwrap().unwrap().0.opened.unwrap().account, "pool1");
    }
    let old = Filter::holder(20_001, "wn1".into(), Moment(NOON + 60_000_000_000));
    assert!(site.store().select(&old).unwrap().is_empty());
    let file = std::fs::read_dir(site.dir().join("journal")).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = file.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["2024-10-04.2.jsonl", "2025-11-09.jsonl"]);
}

#[test]
fn a_name_that_is_taken_out_is_in_no_file_any_more() {
    let site = Site::new(2);
    site.fold(NOON);
    (20..22).for_each(|n| put(&site.spool(), n));
    let now = NOON + 401 * DAY;
    site.fold(now);
    let holds = |name: &str| {
        let files =
            ["journal/2024-10-04.jsonl", "journal/2024-10-04.2.jsonl", "index.sqlite", "index.sqlite-wal"];
        let has = |file: &&str| {
            let bytes = std::fs::read(site.dir().join(file)).unwrap_or_default();
            bytes.windows(name.len()).any(|window| window == name.as_bytes())
        };
        files.iter().filter(|file| has(file)).count()
    };
    assert!(holds("/CN=user 1") > 0);
    reduce(&site, now);
    assert_eq!(holds("/CN=user 1"), 0);
}

#[test]
fn a_writer_that_ends_between_file_and_index_is_made_up_for() {
    let (site, now) = aged(95);
    let by_user = site.store().sums(&whole(), &[Key::User]).unwrap();
    let journal = Journal::new(site.dir().join("journal"));
    journal.reduce(20_000, reduce::Reduced::Arguments).unwrap();
    // Both files are there now: readers go on with the old one.
    assert_eq!(site.store().sums(&whole(), &[Key::User]).unwrap(), by_user);
    assert_eq!(site.store().select(&Filter::default()).unwrap().len(), 24);
    assert_eq!(reduce(&site, now), 0, "it was finished when the store was opened");
    assert!(!site.dir().join("journal/2024-10-04.jsonl").exists());
    assert_eq!(site.store().sums(&whole(), &[Key::User]).unwrap(), by_user);
    assert_eq!(site.store().select(&Filter::default()).unwrap().len(), 24);
}

#[test]
fn what_is_left_of_a_record_is_sealed_too() {
    let (site, now) = aged(95);
    reduce(&site, now);
    let file = site.dir().join("journal/2024-10-04.1.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replacen("\"policy_source\":\"\"", "\"policy_source\":\"x\"", 1);
    assert_ne!(text, changed);
    std::fs::write(&file, changed).unwrap();
    assert!(site.store().verify(None).is_err());
    // Nor can a line be left out, or a whole file called a reduced one.
    let without: String =
        text.split_inclusive('\n').enumerate().filter(|(n, _)| *n > 2).map(|(_, l)| l).collect();
    std::fs::write(&file, without).unwrap();
    assert!(site.store().verify(None).is_err());
}

#[test]
fn a_record_that_comes_again_is_known_whatever_is_left_of_it() {
    let (site, now) = aged(401);
    let bytes = site.store().record(&id(3)).unwrap().unwrap();
    let mut writer = StoreWriter::open(&site.dir()).unwrap();
    writer.reduce(&reduce::Retention::default(), now).unwrap();
    assert_eq!(writer.add(&[bytes], now).unwrap(), [Added::Duplicate]);
}
