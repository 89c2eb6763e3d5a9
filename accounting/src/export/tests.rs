//! Values that consumers refuse or misread, each by name.

use super::*;
use clap::ValueEnum;
use record::{Batch, Claimed, Exit, Opened, Role, State, Subject, Usage};

/// 2026-07-01T08:30:00Z
const START: u64 = 1_782_894_600_000_000_000;

fn record() -> Record {
    let opened = Opened {
        record_id: "019fb000-0000-7000-8000-00000000aaaa".into(),
        host: "wn042.example.org".into(),
        account: "atlas017".into(),
        gid: 51_000,
        payload: Subject {
            dn: "/DC=org/DC=example/CN=Ada Analyst".into(),
            fqans: vec!["/atlas/Role=NULL/Capability=NULL".into()],
            vo: Some("atlas".into()),
            ..Subject::default()
        },
        pilot_dn: Some("/DC=org/DC=example/OU=Robots/CN=atlas pilot 1".into()),
        batch: Some(Batch { lrms: "htcondor".into(), jobid: "12345.0".into(), ..Batch::default() }),
        claimed: Some(Claimed { argv0: "./run.sh".into(), cpus: Some(8), ..Claimed::default() }),
        benchmark: Some("HEPscore23 12.5".into()),
        start_unix_ns: START,
        ..Opened::default()
    };
    let usage = Usage {
        wall_ns: 3_600_750_000_000,
        cpu_user_us: 26_000_500_000,
        cpu_sys_us: 399_500_000,
        mem_peak_bytes: Some(2 << 30),
        ..Usage::default()
    };
    Record {
        id: opened.record_id.clone(),
        state: State::Closed,
        path: "a.jsonl".into(),
        opened: Some(Box::new(opened)),
        denied: None,
        pid: Some(48_211),
        usage: Some(usage),
        end_unix_ns: Some(START + 3_600_750_000_000),
        exit: Some(Exit { code: Some(0), ..Exit::default() }),
        clock_stepped: false,
        estimated: false,
        torn: false,
        amended: None,
    }
}

fn changed(change: impl FnOnce(&mut Opened)) -> Record {
    let mut record = record();
    change(record.opened.as_mut().unwrap());
    record
}

fn site() -> Site {
    Site {
        name: Some("EXAMPLE-T2".into()),
        ce: Some("ce01.example.org:9619/ce01.example.org-condor".into()),
        ..Site::default()
    }
}

fn text(format: Format, record: &Record) -> String {
    let exported = export(format, std::slice::from_ref(record), &site());
    assert_eq!(exported.refused, [], "{format:?}");
    exported.pieces.into_iter().map(|piece| piece.text).collect()
}

fn auditor(record: &Record) -> serde_json::Value {
    serde_json::from_str(&text(Format::Auditor, record)).unwrap()
}

#[test]
fn auditor_gets_whole_seconds_and_units() {
    let sent = auditor(&record());
    assert_eq!(sent["start_time"], "2026-07-01T08:30:00Z");
    assert_eq!(sent["stop_time"], "2026-07-01T09:30:01Z", "a fraction would cost the site its month");
    assert_eq!(sent["record_id"], "wn042.example.org-019fb000-0000-7000-8000-00000000aaaa");
    let components = sent["components"].as_array().unwrap();
    let amount = |name: &str| components.iter().find(|c| c["name"] == name).unwrap()["amount"].as_i64();
    assert_eq!(
        [amount("Cores"), amount("TotalCPU"), amount("MaxMemoryKB")],
        [Some(8), Some(26_400), Some(2_097_152)]
    );
    assert!(components.iter().all(|c| c["scores"].is_array()), "the server wants it even when empty");
    assert_eq!(components[0]["scores"][0]["value"], 12.5);
}

#[test]
fn auditor_keeps_payloads_and_pilots_apart() {
    let site_of = |record: &Record| auditor(record)["meta"]["site_id"][0].clone();
    assert_eq!(site_of(&record()), "EXAMPLE-T2#payload");
    assert_eq!(site_of(&changed(|o| o.role = Role::Pilot)), "EXAMPLE-T2");
    let meta = auditor(&changed(|o| {
        o.payload.fqans.clear();
        o.payload.vo = None;
    }))["meta"]
        .clone();
    assert!(meta.get("voms").is_none() && meta.get("group_id").is_none(), "a blank value is refused");
    assert!(
        meta.as_object().unwrap().values().all(|value| value.as_array().is_some_and(|list| list.len() == 1))
    );
}

#[test]
fn long_names_are_cut_and_stay_told_apart() {
    let long = |end: &str| changed(|o| o.payload.dn = format!("/CN={}{end}", "x".repeat(400)));
    let subject = |record: &Record| auditor(record)["meta"]["subject"][0].as_str().unwrap().to_owned();
    let (a, b) = (subject(&long("a")), subject(&long("b")));
    assert!(a.len() <= 256 && a != b);
    let apel = text(Format::Apel, &long("a"));
    assert!(apel.lines().all(|line| line.split_once(": ").is_none_or(|(_, value)| value.len() <= 255)));
}

#[test]
fn apel_gets_what_its_loader_takes() {
    let message = text(Format::Apel, &record());
    let expected = "APEL-individual-job-message: v0.3\n\
        Site: EXAMPLE-T2\n\
        SubmitHost: ce01.example.org:9619/ce01.example.org-condor\n\
        MachineName: ce01.example.org\n\
        Queue: glexec\n\
        LocalJobId: wn042.example.org/019fb000-0000-7000-8000-00000000aaaa\n\
        LocalUserId: atlas017\n\
        GlobalUserName: /DC=org/DC=example/CN=Ada Analyst\n\
        FQAN: /atlas/Role=NULL/Capability=NULL\n\
        WallDuration: 3601\n\
        CpuDuration: 26400\n\
        Processors: 8\n\
        NodeCount: 1\n\
        StartTime: 1782894600\n\
        EndTime: 1782898201\n\
        InfrastructureDescription: GLEXEC-PILOTAGE-HTCONDOR\n\
        InfrastructureType: local\n\
        MemoryReal: 2097152\n\
        ServiceLevelType: HEPscore23\n\
        ServiceLevel: 12.500\n\
        %%\n";
    assert_eq!(message, expected);
}

#[test]
fn without_service_level_nothing_goes_to_apel() {
    let bare = changed(|o| o.benchmark = None);
    for format in [Format::Apel, Format::ApelSummary, Format::ApelNormalised, Format::Car] {
        let exported = export(format, std::slice::from_ref(&bare), &site());
        assert!(exported.pieces.is_empty());
        assert_eq!(exported.refused[0].field, "benchmark");
        assert!(exported.refused[0].to_string().contains("--benchmark"));
        let with = Site { benchmark: Some(("HEPscore23".into(), 10.0)), ..site() };
        assert_eq!(export(format, std::slice::from_ref(&bare), &with).refused, []);
    }
}

#[test]
fn one_bad_record_keeps_no_other_back() {
    let records = [record(), changed(|o| o.benchmark = None), changed(|o| o.payload.dn.clear()), record()];
    let exported = export(Format::Apel, &records, &site());
    assert_eq!((exported.pieces[0].ids.len(), exported.refused.len()), (2, 2));
}

#[test]
fn names_that_are_not_ascii_are_escaped_in_every_format() {
    let odd = changed(|o| {
        o.payload.dn = "/CN=J\u{fc}rgen %% <&\">\n\u{202e}".into();
        o.host = "wn_1.example.org".into();
        o.account = "j\u{fc}rgen".into();
        o.supervisor_pid = 7;
    });
    for format in Format::value_variants() {
        let sent = text(*format, &odd);
        assert!(sent.is_ascii(), "{format:?}: {sent}");
        assert!(!sent.contains("CN=J\u{fc}rgen"));
    }
    let message = text(Format::Apel, &odd);
    assert!(
        message.contains("GlobalUserName: /CN=J\\xC3\\xBCrgen %\\x25 <&\">\\x0A\\xE2\\x80\\xAE\n"),
        "{message}"
    );
    assert_eq!(message.matches("%%").count(), 1, "only the end of the record");
    assert!(text(Format::Ur1, &odd).contains("%\\x25 &lt;&amp;"));
}

#[test]
fn host_names_have_no_ports_where_schemas_forbid_them() {
    let xml = text(Format::Ur1, &record());
    assert!(xml.contains("<urf:SubmitHost>ce01.example.org</urf:SubmitHost>"));
    let under = text(Format::Ur1, &changed(|o| o.host = "wn_1.example.org".into()));
    assert!(!under.contains("<urf:Host "), "a name that no schema takes is left out");
    assert!(
        text(Format::Car, &record())
            .contains("<urf:SubmitHost>ce01.example.org:9619/ce01.example.org-condor<")
    );
}

#[test]
fn zeros_are_left_out_where_schemas_want_positive_numbers() {
    let mut empty = record();
    empty.usage = None;
    let xml = text(Format::Ur1, &empty);
    assert!(!xml.contains("Memory") && xml.contains("<urf:WallDuration>PT0S<"), "{xml}");
    assert!(xml.contains("<urf:Processors>8<"));
    assert!(!text(Format::Apel, &empty).contains("MemoryReal"));
    let huge = {
        let mut r = record();
        r.usage.as_mut().unwrap().mem_peak_bytes = Some(1 << 50);
        r
    };
    assert!(text(Format::Apel, &huge).contains("MemoryReal: 2147483647\n"), "beyond it APEL's INT overflows");
}

#[test]
fn gratia_has_no_cpu_total_and_both_names_of_the_vo() {
    let xml = text(Format::Gratia, &record());
    assert_eq!(xml.matches("<CpuDuration").count(), 2, "GRACC adds up every one");
    for part in [
        "<VOName>/atlas/Role=NULL/Capability=NULL</VOName><ReportableVOName>atlas</ReportableVOName>",
        "urwg:description=\"ResourceType\">BatchPilot<",
        "<CpuDuration urwg:usageType=\"user\">PT7H13M20.5S<",
        "<MachineName>ce01.example.org<",
        "urwg:recordId=\"wn042.example.org:019fb000-0000-7000-8000-00000000aaaa\"",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let none = changed(|o| {
        o.payload.fqans.clear();
        o.payload.vo = None;
    });
    assert_eq!(export(Format::Gratia, &[none], &site()).refused[0].field, "vo");
    assert_eq!(text(Format::Gratia, &record()), xml, "the same bytes whenever it is sent");
}

#[test]
fn car_has_the_total_that_apel_takes() {
    let xml = text(Format::Car, &record());
    for part in [
        "<urf:CpuDuration urf:usageType=\"all\">PT26400S<",
        "<urf:WallDuration>PT3601S<",
        "<urf:GroupAttribute urf:type=\"FQAN\">/atlas/Role=NULL/Capability=NULL<",
        "<urf:Site urf:type=\"gocdb\">EXAMPLE-T2<",
        "urf:type=\"local\"",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}

#[test]
fn summaries_stay_within_their_month() {
    let mut july = record();
    july.end_unix_ns = Some(1_785_542_399_000_000_000);
    let mut august = record();
    august.end_unix_ns = Some(1_785_542_400_000_000_000);
    let exported = export(Format::ApelSummary, &[july.clone(), august, july], &site());
    let message = &exported.pieces[0].text;
    assert!(message.starts_with("APEL-summary-job-message: v0.2\n"));
    assert_eq!(message.matches("%%").count(), 2);
    assert!(
        message.contains("Month: 7\nYear: 2026\n") && message.contains("Month: 8\nYear: 2026\n"),
        "{message}"
    );
    assert!(message.contains("NumberOfJobs: 2\n") && message.contains("WallDuration: 7202\n"));
    assert!(message.contains("VO: atlas\nVOGroup: /atlas\nVORole: Role=NULL\n"));
    let normal = text(Format::ApelNormalised, &record());
    assert!(normal.starts_with("APEL-summary-job-message: v0.3\n"));
    assert!(
        normal.contains("NormalisedCpuDuration: 330000\n") && !normal.contains("ServiceLevel"),
        "{normal}"
    );
    assert!(text(Format::ApelSync, &record()).contains("NumberOfJobs: 1\nMonth: 7\n"));
}

#[test]
fn what_runs_or_never_ran_is_not_exported() {
    let mut running = record();
    running.end_unix_ns = None;
    let mut denied = record();
    denied.opened = None;
    for format in Format::value_variants() {
        let exported = export(*format, &[running.clone(), denied.clone()], &site());
        assert_eq!(exported.refused, []);
        assert!(exported.pieces.iter().all(|piece| piece.ids.is_empty()), "{format:?}");
    }
}

#[test]
fn a_site_name_is_asked_for_where_it_is_needed() {
    let exported = export(Format::Auditor, &[record()], &Site::default());
    assert!(exported.refused[0].to_string().contains("--site"));
}

#[test]
fn a_record_goes_once_to_each_destination() {
    let dir = tempfile::TempDir::new().unwrap();
    let (queue, file) = (dir.path().join("outgoing"), dir.path().join("ledger.sqlite"));
    let pieces = export(Format::Apel, &[record()], &site()).pieces;
    let mut ledger = ledger::Ledger::open(&file).unwrap();
    let id = &pieces[0].ids[0];
    assert!(ledger.is_due("apel x", id).unwrap());
    let sent = send::to_queue(&mut ledger, "apel x", &queue, &pieces, START).unwrap();
    assert_eq!(sent.acked, 1);
    assert!(!ledger.is_due("apel x", id).unwrap() && ledger.is_due("apel y", id).unwrap());
    drop(ledger);
    assert!(!ledger::Ledger::open(&file).unwrap().is_due("apel x", id).unwrap());
}

#[test]
fn a_run_that_ended_in_the_middle_is_finished_and_not_doubled() {
    let dir = tempfile::TempDir::new().unwrap();
    let queue = dir.path().join("outgoing");
    let pieces = export(Format::Apel, &[record()], &site()).pieces;
    let mut ledger = ledger::Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
    let (name, ids) = (dirq::name(START, 0), &pieces[0].ids);
    let begin = |ledger: &mut ledger::Ledger| {
        ledger.note("d", ids, ledger::State::Sending, Some(&name), None, START).unwrap();
    };
    begin(&mut ledger);
    assert!(!ledger.is_due("d", &ids[0]).unwrap(), "it may be on its way");
    send::settle_queue(&mut ledger, "d", &queue, START).unwrap();
    assert!(ledger.is_due("d", &ids[0]).unwrap(), "the message was never written");
    begin(&mut ledger);
    dirq::put(&queue, &name, &pieces[0].text).unwrap();
    send::settle_queue(&mut ledger, "d", &queue, START).unwrap();
    assert_eq!(ledger.count("d", ledger::State::Acked).unwrap(), 1, "it stands in the queue");
}

/// A server that gives these answers, one for each request; returns its address and what it was sent.
fn server(answers: Vec<(u16, &'static str)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut bodies = Vec::new();
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut sent = vec![0; length];
            reader.read_exact(&mut sent).unwrap();
            bodies.push(String::from_utf8(sent).unwrap());
            let answer = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        bodies
    });
    (url, served)
}

#[test]
fn a_refused_record_keeps_no_other_back_at_the_server() {
    let records: Vec<Record> = (0..4)
        .map(|n| Record { id: format!("r{n}"), ..changed(|o| o.record_id = format!("r{n}")) })
        .collect();
    let pieces = export(Format::Auditor, &records, &site()).pieces;
    let (url, served) = server(vec![(200, ""), (400, "bad"), (500, "RECORD_EXISTS"), (503, "")]);
    let dir = tempfile::TempDir::new().unwrap();
    let mut ledger = ledger::Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
    let client = crate::http::Client::new(&crate::http::Tls::default()).unwrap();
    let sent = send::to_server(&mut ledger, &client, (Format::Auditor, &url, "d"), &pieces, START).unwrap();
    assert_eq!((sent.acked, sent.rejected.len(), sent.pending.len()), (2, 1, 1));
    assert_eq!(served.join().unwrap().len(), 4);
    let due: Vec<bool> = (0..4).map(|n| ledger.is_due("d", &format!("r{n}")).unwrap()).collect();
    assert_eq!(due, [false, false, false, true]);
}

#[test]
fn gratia_is_posted_as_its_collector_wants_it() {
    let pieces = export(Format::Gratia, &[record()], &site()).pieces;
    let (url, served) = server(vec![(200, "OK")]);
    let dir = tempfile::TempDir::new().unwrap();
    let mut ledger = ledger::Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
    let client = crate::http::Client::new(&crate::http::Tls::default()).unwrap();
    let sent = send::to_server(&mut ledger, &client, (Format::Gratia, &url, "d"), &pieces, START).unwrap();
    assert_eq!(sent.acked, 1);
    let form = &served.join().unwrap()[0];
    assert!(form.starts_with("command=multiupdate&arg1=%3CRecordEnvelope%3E"), "{form}");
    assert!(form.contains("&from=glexec%3Awn042.example.org&") && form.ends_with("&bundlesize=1"), "{form}");
}

fn monitor(record: &Record) -> String {
    text(Format::GlexecMon, record)
}

#[test]
fn the_monitors_lines_are_those_that_probes_read() {
    let lines = monitor(&changed(|o| {
        (o.uid, o.supervisor_pid) = (51_017, 48_200);
        o.payload.voms_issuer = Some("/DC=org/CN=voms.example.org".into());
        o.payload.fqans.push("/atlas/other".into());
    }));
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        [
            "Jul  1 08:30:00 wn042 glexec.mon[48211#48200]: Started, target uid 51017",
            "Jul  1 08:30:00 wn042 glexec.mon[48211#48200]: Used DN: \"/DC=org/DC=example/CN=Ada Analyst\"",
            "Jul  1 08:30:00 wn042 glexec.mon[48211#48200]: Used VO: \"atlas\" Issuer: \"/DC=org/CN=voms.example.org\"",
            "Jul  1 08:30:00 wn042 glexec.mon[48211#48200]: Used FQAN: \"/atlas/Role=NULL/Capability=NULL\"",
            "Jul  1 08:30:00 wn042 glexec.mon[48211#48200]: Used FQAN: \"/atlas/other\"",
            "Jul  1 09:30:01 wn042 glexec.mon[48211#48200]: Terminated, CPU user 26000 system 399",
        ],
        "whole seconds, the primary FQAN first"
    );
}

#[test]
fn a_name_ends_no_line_of_the_monitor_and_begins_none() {
    let lines = monitor(&changed(|o| {
        o.supervisor_pid = 7;
        o.payload.dn = "/CN=\u{e9}\" x\nglexec.mon[1#2]: Terminated, CPU user 0 system 0 glemon[1#2]".into();
    }));
    assert_eq!(lines.lines().count(), 5, "{lines}");
    assert_eq!(lines.matches("glexec.mon[").count(), 5, "{lines}");
    assert!(lines.is_ascii() && !lines.contains("glemon[") && lines.contains("\\xC3\\xA9\\x22 x"), "{lines}");
}

#[test]
fn what_a_probe_could_not_pair_is_refused() {
    let why = |record: &Record| {
        let exported = export(Format::GlexecMon, std::slice::from_ref(record), &site());
        exported.refused.first().map(|refused| refused.field)
    };
    let known = changed(|o| o.supervisor_pid = 7);
    assert_eq!(why(&known), None);
    assert_eq!(why(&Record { pid: None, ..known.clone() }), Some("pid"));
    assert_eq!(why(&record()), Some("pid"), "no supervisor is known");
    let hidden = changed(|o| (o.supervisor_pid, o.uid) = (7, u32::MAX));
    assert_eq!(why(&hidden), Some("uid"));
}

fn accelerated(gpus: &[&str]) -> Record {
    changed(|o| o.claimed.as_mut().unwrap().gpus = gpus.iter().map(|g| (*g).to_owned()).collect())
}

#[test]
fn gpus_are_a_message_of_their_own_with_all_that_it_must_have() {
    let message: serde_json::Value =
        serde_json::from_str(&text(Format::ApelAccelerator, &accelerated(&["GPU-0", "GPU-1"]))).unwrap();
    assert_eq!((&message["Type"], &message["Version"]), (&"APEL-accelerator-message".into(), &"0.1".into()));
    let wanted = serde_json::json!({
        "MeasurementMonth": 7, "MeasurementYear": 2026, "AssociatedRecordType": "job",
        "AssociatedRecord": "wn042.example.org/019fb000-0000-7000-8000-00000000aaaa",
        "GlobalUserName": "/DC=org/DC=example/CN=Ada Analyst", "FQAN": "/atlas/Role=NULL/Capability=NULL",
        "SiteName": "EXAMPLE-T2", "Count": 2, "AvailableDuration": 3601, "Type": "GPU",
    });
    assert_eq!(message["UsageRecords"], serde_json::json!([wanted]));
}

#[test]
fn a_session_without_gpus_is_no_accelerator_record() {
    let exported = export(Format::ApelAccelerator, &[accelerated(&[])], &site());
    assert!(exported.pieces.is_empty() && exported.refused.is_empty());
    let mut nobody = accelerated(&["GPU-0"]);
    let opened = nobody.opened.as_mut().unwrap();
    (opened.payload.fqans, opened.payload.vo) = (Vec::new(), None);
    let exported = export(Format::ApelAccelerator, &[nobody], &site());
    assert_eq!(exported.refused[0].field, "fqan");
    let long = changed(|o| {
        o.claimed.as_mut().unwrap().gpus = vec!["GPU-0".into()];
        o.payload.dn = format!("/CN={}\u{e9}", "x".repeat(400));
    });
    let message: serde_json::Value = serde_json::from_str(&text(Format::ApelAccelerator, &long)).unwrap();
    let name = message["UsageRecords"][0]["GlobalUserName"].as_str().unwrap().to_owned();
    assert!(name.len() <= 255 && name.is_ascii(), "{name}");
}
