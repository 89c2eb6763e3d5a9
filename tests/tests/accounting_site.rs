//! Worker nodes bring their records to the site's server, and people ask it: the real programs over TLS, on the loopback.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use accounting::http::{Answer, Client, Tls};
use harness::pki::{Pki, User};
use record::{Event, Exit, Opened, Spool, Subject, Usage};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const NOON: u64 = 20_000 * 86_400_000_000_000 + 43_200_000_000_000;
const MINUTE: u64 = 60_000_000_000;

struct Site {
    pki: Pki,
    dir: tempfile::TempDir,
}

/// A server that is killed with its test.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(&dir.path().join("grid")).unwrap();
        let site = Self { pki, dir };
        site.configure("");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, readers: &str) {
        let text = format!(
            "listen = \"127.0.0.1:0\"\ncert = {:?}\nkey = {:?}\nca_dir = {:?}\nstore = {:?}\n\
             [writers]\nallow = [\"/C=XX/O=Test Grid/OU=people/CN=*.example.org\"]\n[readers]\n{readers}\n",
            self.pki.host_cert,
            self.pki.host_key,
            self.pki.ca_dir,
            self.path("site")
        );
        std::fs::write(self.path("accounting.toml"), text).unwrap();
    }

    fn start(&self) -> Server {
        let mut command = Command::new(harness::bin_dir().join("accounting"));
        command.args(["serve", "--config"]).arg(self.path("accounting.toml"));
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(self.path("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port =
            line.trim().rsplit_once(':').unwrap_or_else(|| panic!("{line} {}", self.said())).1.to_owned();
        Server { child, url: format!("https://localhost:{port}") }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn client(&self, user: &User) -> Client {
        let (cert, key) = (Some(user.cert.clone()), Some(user.key.clone()));
        Client::new(&Tls { cert, key, ca_dir: Some(self.pki.ca_dir.clone()) }).unwrap()
    }

    fn node(&self, name: &str) -> Node<'_> {
        let user = self.pki.user(name, &format!("{name}.example.org")).unwrap();
        let dir = self.path(name);
        std::fs::create_dir_all(dir.join("spool")).unwrap();
        Node { site: self, user, dir }
    }
}

/// A worker node: a spool, a store and a host certificate of its own.
struct Node<'a> {
    site: &'a Site,
    user: User,
    dir: PathBuf,
}

impl Node<'_> {
    fn spool(&self) -> Spool {
        Spool::new(self.dir.join("spool"))
    }

    fn open(&self, n: u64, host: &str) -> record::OpenRecord {
        let vo = if n.is_multiple_of(2) { "cms" } else { "atlas" };
        let payload = Subject {
            dn: format!("/C=XX/O=Test Grid/OU=people/CN=user{}", n % 3),
            vo: Some(vo.into()),
            fqans: vec![format!("/{vo}/Role=NULL")],
            ..Subject::default()
        };
        let opened = Opened {
            record_id: id(n),
            host: host.into(),
            uid: 20_000 + u32::try_from(n % 5).unwrap(),
            account: format!("pool{}", n % 5),
            payload,
            start_unix_ns: NOON + n * MINUTE,
            ..Opened::default()
        };
        self.spool().open(&opened).unwrap()
    }

    fn ran(&self, n: u64) {
        self.ran_on(n, "wn1.example.org", 0);
    }

    fn ran_on(&self, n: u64, host: &str, code: i32) {
        let usage = Usage { wall_ns: MINUTE, cpu_user_us: 30_000_000, ..Usage::default() };
        let exit = Exit { code: Some(code), ..Exit::default() };
        let end_unix_ns = NOON + (n + 1) * MINUTE;
        let close =
            Event::Close { end_unix_ns, usage: usage.into(), exit: exit.into(), clock_stepped: false };
        self.open(n, host).close(&close).unwrap();
    }

    fn forward(&self, url: &str) -> (Option<i32>, Value, String) {
        let mut command = Command::new(harness::bin_dir().join("accounting"));
        command.arg("--spool").arg(self.dir.join("spool")).arg("--store").arg(self.dir.join("store"));
        command.args(["forward", "--json", "--to", url]).arg("--cert").arg(&self.user.cert);
        command.arg("--key").arg(&self.user.key).arg("--ca-dir").arg(&self.site.pki.ca_dir);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let told = String::from_utf8(stderr).unwrap();
        (status.code(), serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("{e}: {told}")), told)
    }
}

fn id(n: u64) -> String {
    format!("019fb000-0000-7000-8000-{n:012x}")
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

#[test]
fn records_of_a_node_are_sent_once_and_answer_every_question() {
    let site = Site::new();
    let officer = site.pki.user("officer", "Olga Officer").unwrap();
    site.configure(&format!("all = [{:?}]", officer.dn));
    let (node, server) = (site.node("wn1"), site.start());
    (0..60).for_each(|n| node.ran(n));
    let _running = node.open(60, "wn1.example.org");
    let (code, sent, told) = node.forward(&server.url);
    assert_eq!((code, &sent["created"], &sent["running"]), (Some(0), &60.into(), &1.into()), "{told}");
    let (code, again, _) = node.forward(&server.url);
    assert_eq!((code, &again["created"], &again["known"]), (Some(0), &0.into(), &0.into()), "nothing is due");

    let client = site.client(&officer);
    let get = |path: &str| client.get(&format!("{}{path}", server.url)).unwrap();
    // Page by page, each record once; what runs comes last.
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = json(&get(&format!("/v1/sessions?limit=25{cursor}")));
        seen.extend(
            page["records"].as_array().unwrap().iter().map(|r| r["record_id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (0..=60).map(id).collect::<Vec<_>>());
    let running = json(&get("/v1/sessions?running=true"));
    assert_eq!((&running["count"], &running["records"][0]["state"]), (&1.into(), &"running".into()));
    let held = json(&get("/v1/whowas?uid=20002&host=wn1&at=2024-10-04T12:07:30Z"));
    assert_eq!(held["records"][0]["record_id"], id(7), "{held}");
    let events = json(&get(&format!("/v1/sessions/{}/events", id(3))));
    assert_eq!(events["events"].as_array().map(Vec::len), Some(2));
    let sums = json(&get("/v1/summary?by=vo"));
    assert_eq!((&sums["sums"][1]["vo"], &sums["sums"][1]["jobs"]), (&"cms".into(), &30.into()), "{sums}");
    assert_eq!(json(&get("/v1/tree?limit=1"))["count"], 1);
    assert!(get("/metrics").body.contains("pilotage_accounting_uploaded_total{result=\"created\"} 60\n"));
    assert_eq!(get("/healthz").status, 200);
    for (path, status, why) in [
        ("/v1/sessions?dnn=x", 400, "there is no parameter \\\"dnn\\\""),
        ("/v1/sessions?uid=1&uid=2", 400, "uid"),
        ("/v1/summary?month=2026-07&since=1d", 400, "since"),
        ("/v1/sessions/nothing", 404, "nothing"),
        ("/v2/x", 404, "openapi"),
    ] {
        let answer = get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body.contains(why), "{path}: {}", answer.body);
    }
    let reads = std::fs::read_to_string(site.path("site/reads.jsonl")).unwrap();
    assert!(reads.contains("Olga Officer") && reads.contains("/v1/whowas?uid=20002"), "{reads}");
    let described = json(&get("/v1/openapi.json"));
    assert_eq!(described["openapi"], "3.1.0");
}

#[test]
fn everybody_sees_what_is_meant_for_them() {
    let site = Site::new();
    let boss = site.pki.user("boss", "Max Manager").unwrap();
    let (ada, eve) = (site.pki.user("ada", "user1").unwrap(), site.pki.user("eve", "Eve").unwrap());
    site.configure(&format!("sums = [{:?}]", boss.dn));
    let (node, server) = (site.node("wn1"), site.start());
    (0..6).for_each(|n| node.ran(n));
    assert_eq!(node.forward(&server.url).0, Some(0));
    let ask = |user: &User, path: &str| site.client(user).get(&format!("{}{path}", server.url)).unwrap();
    let own = json(&ask(&ada, "/v1/sessions"));
    assert_eq!(own["count"], 2, "{own}");
    assert_eq!(json(&ask(&eve, "/v1/sessions"))["count"], 0);
    assert_eq!(ask(&eve, &format!("/v1/sessions/{}", id(1))).status, 404, "no word of what is not hers");
    assert_eq!(ask(&ada, "/v1/sessions?dn=/CN=x").status, 403);
    assert_eq!(json(&ask(&boss, "/v1/summary?by=vo"))["count"], 2);
    for path in
        ["/v1/sessions", "/v1/summary?by=user", "/v1/summary?uid=20001", "/v1/whowas?uid=1&host=x&at=now"]
    {
        assert_eq!(ask(&boss, path).status, 403, "{path}");
    }
    // No user brings records.
    let upload = serde_json::json!({ "records": [] }).to_string();
    let brought = site.client(&ada).post(&format!("{}/v1/sessions", server.url), "application/json", &upload);
    assert_eq!(brought.unwrap().status, 403);
}

#[test]
fn holes_in_the_site_s_accounting_are_for_its_officers() {
    let site = Site::new();
    let (officer, ada) =
        (site.pki.user("officer", "Olga Officer").unwrap(), site.pki.user("ada", "user1").unwrap());
    let (claims, oar) = (site.path("runs.jsonl"), site.path("oarstat.json"));
    site.configure(&format!("all = [{:?}]\n[reconcile]\nclaims = {claims:?}\noar = {oar:?}", officer.dn));
    let (node, server) = (site.node("wn1"), site.start());
    node.ran(0);
    assert_eq!(node.forward(&server.url).0, Some(0));
    let ask = |user: &User, query: &str| {
        site.client(user).get(&format!("{}/v1/reconcile{query}", server.url)).unwrap()
    };
    let answer = ask(&officer, "");
    assert!(answer.status == 503 && answer.body.contains("oarstat.json"), "{answer:?}");
    let told = [
        format!(r#"{{"payload":"p0","pilot":"x","session":"{}","wall_s":60,"cpu_s":30}}"#, id(0)),
        r#"{"payload":"p1","pilot":"y","host":"wn7","session":null,"wall_s":60,"cpu_s":30}"#.to_owned(),
    ];
    std::fs::write(&claims, told.join("\n")).unwrap();
    std::fs::write(&oar, r#"{"7": {"owner": "pil03", "start_time": 100, "stop_time": 700}}"#).unwrap();
    let found = json(&ask(&officer, "?month=2024-10"));
    let kinds: Vec<_> = found["findings"].as_array().unwrap().iter().map(|f| f["finding"].clone()).collect();
    assert_eq!(kinds, ["slot_without_session", "payload_without_switch", "pilot_without_switch"], "{found}");
    assert_eq!((&found["records"], &found["overhead"]["held_s"]), (&1.into(), &600.into()), "{found}");
    assert_eq!(ask(&ada, "").status, 403);
    let wrong = ask(&officer, "?mnth=2024-10");
    assert!(wrong.status == 400 && wrong.body.contains("mnth"), "{wrong:?}");
}

#[test]
fn a_record_that_is_refused_holds_nobody_up() {
    let site = Site::new();
    let (node, other, server) = (site.node("wn1"), site.node("wn2"), site.start());
    // The same id with another content, brought by another host first.
    other.ran_on(3, "wn2.example.org", 7);
    assert_eq!(other.forward(&server.url).0, Some(0));
    (0..5).for_each(|n| node.ran(n));
    node.ran_on(5, "wn2.example.org", 0);
    let (code, sent, told) = node.forward(&server.url);
    assert_eq!((code, &sent["created"], &sent["refused"]), (Some(1), &4.into(), &2.into()), "{told}");
    assert!(told.contains(&format!("record {}", id(3))) && told.contains("of host"), "{told}");
    let (code, again, _) = node.forward(&server.url);
    assert_eq!((code, &again["refused"]), (Some(0), &0.into()), "said once");
    let bad = r#"{"records":[{"id":"x","lines":"{}\n","more":1}]}"#;
    let answer =
        site.client(&node.user).post(&format!("{}/v1/sessions", server.url), "application/json", bad);
    let answer = answer.unwrap();
    assert!(answer.status == 400 && answer.body.contains("more"), "{answer:?}");
}

#[test]
fn a_server_that_is_gone_or_killed_costs_no_record() {
    let site = Site::new();
    let node = site.node("wn1");
    node.ran(0);
    let (code, _, told) = node.forward("https://localhost:1");
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("waits here"), "{told}");
    assert_eq!(node.spool().closed_ids().unwrap(), Vec::<String>::new(), "kept in the store");
    for n in 1..200 {
        node.ran(n);
    }
    let mut known = 0;
    for round in 0..5_u64 {
        let mut server = site.start();
        let url = server.url.clone();
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| node.forward(&url));
            std::thread::sleep(Duration::from_millis(40 + 30 * round));
            server.child.kill().unwrap();
            let (_, sent, _) = sending.join().unwrap();
            known += sent["known"].as_u64().unwrap();
        });
        drop(server);
    }
    let server = site.start();
    let (code, sent, told) = node.forward(&server.url);
    assert_eq!(code, Some(0), "{told} {sent}");
    drop(server);
    let store = accounting::store::Store::open(&site.path("site")).unwrap().unwrap();
    assert_eq!(store.verify(None).unwrap().records, 200, "each record once; {known} were sent again");
}

#[test]
fn what_is_wrong_is_said_before_it_starts() {
    let site = Site::new();
    let check = || {
        let mut command = Command::new(harness::bin_dir().join("accounting"));
        let out = command
            .args(["serve", "--check", "--config"])
            .arg(site.path("accounting.toml"))
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, told) = check();
    assert!(code == Some(1) && told.contains("error: store"), "there is no directory yet: {told}");
    std::fs::create_dir(site.path("site")).unwrap();
    assert_eq!(check().0, Some(0));
    std::fs::write(site.path("accounting.toml"), "lisen = 1\n").unwrap();
    let (code, told) = check();
    assert!(code == Some(1) && told.contains("unknown field `lisen`"), "{told}");
}
