use super::*;
use crate::event::{Exit, Usage};
use crate::read::State;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("record-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn spool(&self) -> Spool {
        Spool::new(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn opened(id: &str) -> Opened {
    Opened { record_id: id.to_owned(), host: "wn1".to_owned(), start_unix_ns: 5, ..Opened::default() }
}

fn usage(cpu_user_us: u64) -> Usage {
    Usage { wall_ns: 9, cpu_user_us, ..Usage::default() }
}

fn close(cpu_user_us: u64) -> Event {
    let exit = Exit { code: Some(3), ..Exit::default() };
    Event::Close {
        end_unix_ns: 14,
        usage: Box::new(usage(cpu_user_us)),
        exit: Box::new(exit),
        clock_stepped: false,
    }
}

fn lost() -> Event {
    Event::Lost { end_unix_ns: 7, usage: None, cause: "reboot".to_owned(), estimated: true, leftovers: 0 }
}

fn append_raw(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_session_is_folded_from_its_events() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    assert_eq!(spool.record("a1").unwrap().state, State::Running);
    record.append(&Event::Exec { pid: 42 }).unwrap();
    record.append(&Event::Usage { usage: usage(10) }).unwrap();
    record.close(&close(20)).unwrap();

    let read = spool.record("a1").unwrap();
    assert_eq!((read.state, read.pid, read.end_unix_ns), (State::Closed, Some(42), Some(14)));
    assert_eq!(read.usage, Some(usage(20)));
    assert_eq!(read.exit.unwrap().code, Some(3));
    assert_eq!(spool.open_ids().unwrap(), Vec::<String>::new());
    assert_eq!(spool.records().unwrap().count(), 1);
}

#[test]
fn files_and_directories_are_for_root_alone() {
    let scratch = Scratch::new();
    let _open = scratch.spool().open(&opened("a1")).unwrap();
    let mode = |path: &str| fs::metadata(scratch.0.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("open"), mode("closed"), mode("open/a1.jsonl")], [0o700, 0o700, 0o600]);
}

#[test]
fn an_id_is_used_once() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let record = spool.open(&opened("a1")).unwrap();
    assert_eq!(spool.open(&opened("a1")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    record.close(&close(1)).unwrap();
    assert_eq!(spool.open(&opened("a1")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let denied = Denied { record_id: "a1".to_owned(), ..Denied::default() };
    assert_eq!(spool.deny(&denied).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn an_id_cannot_leave_the_spool() {
    let scratch = Scratch::new();
    for bad in ["", "../x", "a/b", "a.b", &"x".repeat(65)] {
        assert_eq!(scratch.spool().open(&opened(bad)).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        assert!(scratch.spool().record(bad).is_err());
    }
}

#[test]
fn a_second_close_is_refused() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let first = spool.open(&opened("a1")).unwrap();
    let second = spool.reopen("a1").unwrap();
    first.close(&close(1)).unwrap();
    assert_eq!(second.close(&lost()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(spool.reopen("a1").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(spool.record("a1").unwrap().state, State::Closed);
}

#[test]
fn events_stand_where_they_belong() {
    let scratch = Scratch::new();
    let mut record = scratch.spool().open(&opened("a1")).unwrap();
    assert_eq!(record.append(&close(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(record.close(&Event::Exec { pid: 1 }).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_writer_that_died_before_the_move_is_finished_by_the_sweep() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    record.write(&close(1)).unwrap();
    drop(record);
    spool.reopen("a1").unwrap().close(&lost()).unwrap();
    assert_eq!(spool.record("a1").unwrap().state, State::Closed, "the supervisor's word stands");
}

#[test]
fn a_torn_last_line_is_left_out_and_cut_by_the_sweep() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    record.append(&Event::Usage { usage: usage(10) }).unwrap();
    let path = scratch.0.join("open/a1.jsonl");
    append_raw(&path, br#"{"seq":2,"written_unix_ns":1,"event":"usa"#);

    let read = spool.record("a1").unwrap();
    assert!(read.torn);
    assert_eq!(read.usage, Some(usage(10)));

    spool.reopen("a1").unwrap().close(&lost()).unwrap();
    let read = spool.record("a1").unwrap();
    assert_eq!((read.state, read.torn, read.estimated), (State::Lost, false, true));
    assert_eq!(read.usage, Some(usage(10)), "the last checkpoint holds");
}

#[test]
fn a_line_that_lost_only_its_newline_is_kept() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    record.append(&Event::Exec { pid: 42 }).unwrap();
    record.file.set_len(record.length - 1).unwrap();
    drop(record);
    spool.reopen("a1").unwrap().close(&lost()).unwrap();
    let read = spool.record("a1").unwrap();
    assert_eq!((read.pid, read.state), (Some(42), State::Lost));
}

#[test]
fn a_flipped_bit_is_named_by_file_and_line_and_hides_no_other_record() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut bad = spool.open(&opened("a1")).unwrap();
    bad.append(&Event::Exec { pid: 42 }).unwrap();
    bad.close(&close(1)).unwrap();
    spool.open(&opened("a2")).unwrap().close(&close(1)).unwrap();
    let path = scratch.0.join("closed/a1.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|b| *b == b'\n').unwrap() + 20;
    bytes[second] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let all: Vec<_> = spool.records().unwrap().collect();
    let damaged = all[0].as_ref().unwrap_err();
    assert_eq!((damaged.path.as_path(), damaged.line), (path.as_path(), Some(2)));
    assert_eq!(all[1].as_ref().unwrap().id, "a2");
}

#[test]
fn missing_and_foreign_lines_are_damage() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    record.next_seq = 2;
    record.append(&Event::Exec { pid: 1 }).unwrap();
    assert_eq!(spool.record("a1").unwrap_err().line, Some(2));

    let path = scratch.0.join("open/b1.jsonl");
    fs::copy(scratch.0.join("open/a1.jsonl"), &path).unwrap();
    assert!(spool.record("b1").is_err());
    for nonsense in [&b""[..], b"\n", b"{}\n", b"[1]\n", &[0xFF; 300], &[0; 4096]] {
        fs::write(&path, nonsense).unwrap();
        assert!(spool.record("b1").is_err(), "{nonsense:?}");
    }
}

#[test]
fn a_file_without_a_complete_event_is_no_record_and_no_damage() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let _first = spool.open(&opened("a1")).unwrap();
    let path = scratch.0.join("open/b1.jsonl");
    for stump in [&b""[..], b"{\"seq\":0,\"writ", &[0; 4096]] {
        fs::write(&path, stump).unwrap();
        assert_eq!(spool.record("b1").unwrap_err().error_kind(), ErrorKind::UnexpectedEof);
        assert_eq!(spool.reopen("b1").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!path.exists());
    }
}

#[test]
fn a_reboot_ends_what_ran_before_it_once() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    assert_eq!(spool.close_lost_to_reboot("boot-1").unwrap(), 0, "an empty spool");
    let of_boot = |id: &str, boot_id: &str| Opened { boot_id: boot_id.to_owned(), ..opened(id) };
    let mut old = spool.open(&of_boot("a1", "boot-1")).unwrap();
    old.append(&Event::Usage { usage: usage(10) }).unwrap();
    drop(old);
    assert_eq!(spool.close_lost_to_reboot("boot-1").unwrap(), 0, "it may still run");

    let _new = spool.open(&of_boot("a2", "boot-2")).unwrap();
    assert!(!spool.knows_boot("boot-2"));
    assert_eq!(spool.close_lost_to_reboot("boot-2").unwrap(), 1);
    assert!(spool.knows_boot("boot-2") && !spool.knows_boot("boot-1"));
    assert_eq!(spool.close_lost_to_reboot("boot-2").unwrap(), 0);
    let read = spool.record("a1").unwrap();
    assert_eq!((read.state, read.estimated), (State::Lost, true));
    assert_eq!(read.end_unix_ns, Some(5 + 9), "start and the wall time of the last checkpoint");
    assert_eq!(read.exit.unwrap().lost.as_deref(), Some("reboot"));
    assert_eq!(spool.open_ids().unwrap(), ["a2"]);
    let marks = fs::read_dir(&scratch.0)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("swept"));
    assert_eq!(marks.count(), 1);
}

#[test]
fn who_cannot_close_what_a_reboot_ended_leaves_it_to_the_next() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    drop(spool.open(&Opened { boot_id: "boot-1".to_owned(), ..opened("a1") }).unwrap());
    fs::write(scratch.0.join("open/damaged.jsonl"), "this is no event\n").unwrap();
    // Nothing can be moved into a file.
    let closed = scratch.0.join("closed");
    fs::rename(&closed, scratch.0.join("aside")).unwrap();
    fs::write(&closed, "").unwrap();
    assert!(spool.close_lost_to_reboot("boot-2").is_err());
    assert!(!spool.knows_boot("boot-2"));
    fs::remove_file(&closed).unwrap();
    fs::rename(scratch.0.join("aside"), &closed).unwrap();
    assert_eq!(spool.close_lost_to_reboot("boot-2").unwrap(), 1);
    assert!(spool.knows_boot("boot-2"), "what is damaged for good keeps nobody busy");
    assert_eq!(spool.record("a1").unwrap().state, State::Lost);
    assert_eq!(spool.lines("a1").unwrap().len(), 2, "the event that could not be moved counts");
}

#[test]
fn a_refusal_is_one_line() {
    let scratch = Scratch::new();
    let denied = Denied {
        record_id: "d1".to_owned(),
        at_unix_ns: 77,
        code: 203,
        reason: "banned".to_owned(),
        nested_signs: vec!["cgroup".to_owned()],
        ..Denied::default()
    };
    scratch.spool().deny(&denied).unwrap();
    let read = scratch.spool().record("d1").unwrap();
    assert_eq!((read.state, read.start_unix_ns()), (State::Denied, 77));
    assert_eq!(*read.denied.unwrap(), denied);
}

#[test]
fn a_full_disk_is_reported_and_leaves_the_record_readable() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let mut record = spool.open(&opened("a1")).unwrap();
    let good = record.file.try_clone().unwrap();
    record.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let error = record.append(&Event::Exec { pid: 1 }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    record.file = good;
    record.append(&Event::Exec { pid: 2 }).unwrap();
    assert_eq!(spool.record("a1").unwrap().pid, Some(2));
}

#[test]
fn only_a_final_event_may_use_the_reserve() {
    let scratch = Scratch::new();
    let reserve = scratch.0.join("reserve");
    let mut record = scratch.spool().open(&opened("a1")).unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), RESERVE as u64);
    record.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    assert!(record.append(&Event::Usage { usage: usage(1) }).is_err());
    assert!(reserve.exists(), "checkpoints can be missed");
    assert_eq!(record.close(&close(1)).unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(!reserve.exists());
    let _next = scratch.spool().open(&opened("a2")).unwrap();
    assert!(reserve.exists(), "the next session holds it back again");
}

#[test]
fn a_spool_that_cannot_be_made_is_an_error_with_its_name() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "").unwrap();
    let error = Spool::new(&file).open(&opened("a1")).unwrap_err();
    assert!(error.to_string().contains("file/open"), "{error}");
}

/// A closed record of one session, and its path.
fn closed(scratch: &Scratch, id: &str) -> PathBuf {
    let mut record = scratch.spool().open(&opened(id)).unwrap();
    record.append(&Event::Exec { pid: 42 }).unwrap();
    record.close(&close(1)).unwrap();
    scratch.0.join(format!("closed/{id}.jsonl"))
}

#[test]
fn a_closed_record_that_was_cut_anywhere_is_damage() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "a1");
    let whole = fs::read(&path).unwrap();
    // The last newline alone is no loss: the line before it is whole.
    for length in 0..whole.len() - 1 {
        let found = read::parse(&path, &whole[..length]).unwrap();
        let damaged = found.must_be_final(&path).unwrap_err();
        assert_eq!(damaged.error_kind(), ErrorKind::InvalidData, "cut to {length}: {damaged}");
    }
    for length in [0, whole.len() / 2, whole.len() - 20] {
        fs::write(&path, &whole[..length]).unwrap();
        let damaged = scratch.spool().record("a1").unwrap_err();
        assert_eq!((damaged.error_kind(), &damaged.path), (ErrorKind::InvalidData, &path));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(scratch.spool().record("a1").unwrap().state, State::Closed);
}

#[test]
fn a_closed_record_whose_final_event_a_later_version_wrote_is_no_damage() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "a1");
    let text = fs::read_to_string(&path).unwrap();
    let kept: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    let body = r#"{"seq":2,"written_unix_ns":1,"event":"handed_over""#;
    let sum = crate::crc::crc32c(&[body.as_bytes(), b"}"]);
    fs::write(&path, format!("{kept}{body},\"crc32c\":\"{sum:08x}\"}}\n")).unwrap();
    assert!(scratch.spool().record("a1").is_ok());
}

#[test]
fn what_is_no_regular_file_is_damage_and_nobody_waits_for_it() {
    let scratch = Scratch::new();
    let good = closed(&scratch, "a1");
    for dir in ["open", "closed"] {
        let at = |name: &str| scratch.0.join(dir).join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("f1.jsonl")).status().unwrap().success());
        std::os::unix::fs::symlink(&good, at("l1.jsonl")).unwrap();
        fs::create_dir(at("d1.jsonl")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("s1.jsonl")).unwrap();
        for (id, what) in [("f1", "FIFO"), ("l1", "symbolic link"), ("d1", "directory"), ("s1", "socket")] {
            let damaged = scratch.spool().record(id).unwrap_err();
            assert_eq!(damaged.error_kind(), ErrorKind::InvalidData, "{damaged}");
            assert!(damaged.to_string().contains(what) && damaged.path == at(&format!("{id}.jsonl")));
            assert!(scratch.spool().reopen(id).is_err());
        }
        assert_eq!(scratch.spool().records().unwrap().filter(Result::is_ok).count(), 1);
        fs::remove_file(at("f1.jsonl")).unwrap();
        fs::remove_file(at("l1.jsonl")).unwrap();
        fs::remove_dir(at("d1.jsonl")).unwrap();
        fs::remove_file(at("s1.jsonl")).unwrap();
    }
}

#[test]
fn what_does_not_belong_in_the_spool_is_named() {
    let scratch = Scratch::new();
    closed(&scratch, "a1");
    scratch.spool().close_lost_to_reboot("boot-1").unwrap();
    assert_eq!(scratch.spool().strangers().unwrap(), []);
    for name in ["pipe", "open/x y.jsonl", "closed/a1.jsonl.bak"] {
        fs::write(scratch.0.join(name), "").unwrap();
    }
    let found: Vec<_> = scratch.spool().strangers().unwrap().into_iter().map(|d| d.path).collect();
    let expected: Vec<_> =
        ["pipe", "open/x y.jsonl", "closed/a1.jsonl.bak"].map(|n| scratch.0.join(n)).into();
    assert_eq!(found, expected);
    assert_eq!(scratch.spool().ids().unwrap(), ["a1"]);
}

#[test]
fn a_refusal_whose_writer_died_before_the_move_is_moved_after_a_reboot() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let denied = Denied { record_id: "d1".to_owned(), boot_id: "boot-1".to_owned(), ..Denied::default() };
    spool.deny(&denied).unwrap();
    fs::rename(scratch.0.join("closed/d1.jsonl"), scratch.0.join("open/d1.jsonl")).unwrap();
    assert_eq!(spool.record("d1").unwrap().state, State::Denied);
    assert_eq!(spool.close_lost_to_reboot("boot-2").unwrap(), 1);
    assert_eq!(spool.record("d1").unwrap().state, State::Denied);
    assert!(scratch.0.join("closed/d1.jsonl").exists());
}

#[test]
fn a_closed_record_can_be_corrected_and_says_so() {
    let scratch = Scratch::new();
    let (spool, amend) = (scratch.spool(), |cpu| Event::Amend {
        why: "the batch system counted".to_owned(),
        usage: Some(Box::new(usage(cpu))),
        exit: None,
    });
    closed(&scratch, "a1");
    assert_eq!(spool.amend("a1", &close(2)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(spool.amend("a2", &amend(2)).unwrap_err().kind(), ErrorKind::NotFound);
    spool.amend("a1", &amend(77)).unwrap();
    spool.amend("a1", &amend(78)).unwrap();
    let read = spool.record("a1").unwrap();
    assert_eq!((read.state, read.usage), (State::Closed, Some(usage(78))));
    assert_eq!(read.exit.unwrap().code, Some(3), "what is not named holds");
    assert_eq!(read.amended, Some((2, "the batch system counted".to_owned())));
}

#[test]
fn sampled_peaks_of_checkpoints_are_kept() {
    let peaks = |list: &[(&str, u64)]| Usage {
        mem_peaks_bytes: list.iter().map(|(kind, bytes)| ((*kind).to_owned(), *bytes)).collect(),
        ..Usage::default()
    };
    let mut now = peaks(&[("anon+shmem", 10), ("cgroup_peak", 50)]);
    now.keep_peaks(&peaks(&[("anon+shmem", 30), ("maxrss", 7)]));
    assert_eq!(now, peaks(&[("anon+shmem", 30), ("cgroup_peak", 50), ("maxrss", 7)]));
}
