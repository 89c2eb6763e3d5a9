//! Mapping end to end: `mapping-query` and `glexec-map` ask `mapping-server` over mutual TLS on the loopback.

use harness::pki::{Pki, User};
use harness::{Machine, Running, needs};
use helper::{MapReply, MapRequest};
use identity::{Dn, Fqan, Mapping, Service, VerifiedIdentity, VomsAttributes};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATH: &str = "/gums/services/GUMSXACMLAuthorizationServicePort";

/// A throw-away grid with a mapping service.
struct Site {
    dir: PathBuf,
    pki: Pki,
    config: PathBuf,
    server: Child,
    address: String,
    log: mpsc::Receiver<String>,
}

fn built(program: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the kernel knows the running program");
    let beside = exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    let dir = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside.to_path_buf(), PathBuf::from);
    let path = dir.join(program);
    assert!(
        path.exists(),
        "{} is missing; run `cargo build -p mapping-client -p mapping-server`",
        path.display()
    );
    path
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").expect("proc is mounted").trim().to_owned()
}

fn rules() -> String {
    format!(
        r#"
[callers]
allow = ["/C=XX/O=Test Grid/CN={}", "/C=XX/O=Test Grid/OU=robots/CN=*"]
[users]
"/C=XX/O=Test Grid/OU=people/CN=Alice" = "alice"
[[fqans]]
fqan = "/cms/Role=pilot"
account = "cmspilot"
[bans]
users = ["/C=XX/O=Test Grid/OU=people/CN=Mallory"]
[accounts.cmspilot]
uid = 20017
gid = 20000
groups = [20001]
"#,
        host_name()
    )
}

impl Site {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pilotage-mapping-{name}-{}", std::process::id()));
        let pki = Pki::new(&dir).expect("the test grid can be made");
        let config = dir.join("mapping-server.toml");
        std::fs::write(&config, rules()).expect("the directory is ours");
        let mut server = Command::new(built("mapping-server"))
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--cert")
            .arg(&pki.host_cert)
            .arg("--key")
            .arg(&pki.host_key)
            .arg("--ca-dir")
            .arg(&pki.ca_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mapping-server starts");
        let mut line = String::new();
        let out = server.stdout.take().expect("it is a pipe");
        BufReader::new(out).read_line(&mut line).expect("mapping-server speaks");
        let errors = server.stderr.take().expect("it is a pipe");
        let address = line.trim().strip_prefix("listening on https://").map(str::to_owned);
        let address = address.unwrap_or_else(|| panic!("mapping-server says {line:?}"));
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        Self { dir, pki, config, server, address, log }
    }

    fn endpoint(&self) -> String {
        format!("https://{}{PATH}", self.address)
    }

    /// The probe with this host's certificate.
    fn query(&self, args: &[&str]) -> Output {
        self.query_as(&self.pki.host_cert, Some(&self.pki.host_key), &self.endpoint(), args)
    }

    fn query_as(&self, cert: &Path, key: Option<&Path>, endpoint: &str, args: &[&str]) -> Output {
        let mut command = Command::new(built("mapping-query"));
        command.args(["--endpoint", endpoint, "--timeout", "10s", "--cert"]).arg(cert);
        if let Some(key) = key {
            command.arg("--key").arg(key);
        }
        command.arg("--ca-dir").arg(&self.pki.ca_dir).args(args).output().expect("mapping-query starts")
    }

    fn signal(&self, name: &str) {
        let pid = self.server.id().to_string();
        let sent = Command::new("/bin/kill").args(["-s", name, &pid]).status().expect("kill is installed");
        assert!(sent.success());
    }

    /// Waits for a line of the server's log.
    fn logged(&self, words: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("no log line has {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn expect(output: &Output, code: i32, words: &str) {
    let said = text(output);
    assert!(output.status.code() == Some(code) && said.contains(words), "{:?}: {said}", output.status);
}

const ALICE: &str = "/C=XX/O=Test Grid/OU=people/CN=Alice";
const BOB: &str = "/C=XX/O=Test Grid/OU=people/CN=Bob";

#[test]
fn the_probe_shows_accounts_and_reasons() {
    let site = Site::start("probe");
    let alice = site.query(&["--service", "gums", "--dn", ALICE]);
    assert_eq!((alice.status.code(), text(&alice).as_str()), (Some(0), "alice\n"));
    let role = "/cms/Role=pilot/Capability=NULL";
    expect(&site.query(&["--dn", BOB, "--fqan", role]), 0, "cmspilot uid=20017 gid=20000 groups=20001\n");
    expect(&site.query(&["--dn", BOB, "--fqan", role, "--json"]), 0, r#""account":"cmspilot""#);
    expect(&site.query(&["--dn", BOB, "--fqan", role, "--unverified"]), 1, "did not verify");
    expect(&site.query(&["--dn", BOB]), 1, &format!("denied: unknown: {BOB}"));
    expect(&site.query(&["--dn", BOB, "--json"]), 1, r#""result":"denied""#);
    expect(&site.query(&["--dn", "/C=XX/O=Test Grid/OU=people/CN=Mallory"]), 1, "denied: banned");
    let line = site.logged("Mallory");
    assert!(line.contains("decision=\"Deny\"") && line.contains(&host_name()), "{line}");
}

/// `mapping-server` judges the chains that the protocol of Argus carries, so the names on the command line do not count.
#[test]
#[needs("grid-proxy-init", "voms-proxy-fake")]
fn one_service_answers_in_every_protocol() {
    let site = Site::start("protocols");
    let at = |path: &str| format!("https://{}{path}", site.address);
    let ask = |service: &str, path: &str, args: &[&str]| {
        let args = [&["--service", service][..], args].concat();
        site.query_as(&site.pki.host_cert, Some(&site.pki.host_key), &at(path), &args)
    };
    let alice = site.pki.user("alice", "Alice").expect("users can be made");
    let bob = site.pki.user("bob", "Bob").expect("users can be made");
    let plain =
        site.pki.grid_proxy(&alice, &site.dir.join("plain"), &["-rfc"]).expect("grid-proxy-init works");
    let voms = site.dir.join("voms");
    site.pki.add_vo("cms").expect("an LSC file can be written");
    let role = "/cms/Role=pilot/Capability=NULL";
    let voms = site.pki.voms_proxy(&bob, &voms, "cms", &[role]).expect("voms-proxy-fake works");
    let (plain, voms) = (plain.to_str().expect("names are plain"), voms.to_str().expect("names are plain"));

    expect(&ask("json", "/gums/json/mapGridIdentity", &["--dn", ALICE]), 0, "alice\n");
    expect(
        &ask("json", "/gums/json/mapGridIdentity", &["--dn", BOB, "--fqan", role]),
        0,
        "cmspilot gid=20000\n",
    );
    expect(&ask("json", "/gums/json/mapGridIdentity", &["--dn", BOB]), 1, "denied");
    expect(&ask("scas", PATH, &["--dn", ALICE, "--proxy", plain]), 0, "alice\n");
    expect(
        &ask("scas", "/", &["--dn", BOB, "--fqan", role, "--proxy", voms]),
        0,
        "uid=20017 gid=20000 groups=20001",
    );
    expect(&ask("argus", "/authz", &["--dn", BOB, "--proxy", plain]), 0, "alice\n");
    expect(&ask("argus", "/authz", &["--dn", BOB, "--proxy", voms]), 0, "cmspilot\n");
    let bare = site.pki.grid_proxy(&bob, &site.dir.join("bare"), &["-rfc"]).expect("grid-proxy-init works");
    let bare = bare.to_str().expect("names are plain");
    expect(&ask("argus", "/authz", &["--dn", ALICE, "--proxy", bare]), 1, &format!("denied: unknown: {BOB}"));
    let stranger = site.pki.stranger("stranger", "Alice").expect("strangers can be made");
    let forged = stranger.cert.to_str().expect("names are plain");
    expect(&ask("argus", "/authz", &["--dn", ALICE, "--proxy", forged]), 3, "the service could not decide");
}

#[test]
#[needs("grid-proxy-init")]
fn only_the_hosts_that_are_named_may_ask() {
    let site = Site::start("callers");
    let asks_as =
        |user: &User| site.query_as(&user.cert, Some(&user.key), &site.endpoint(), &["--dn", ALICE]);
    let bob = site.pki.user("bob", "Bob").expect("users can be made");
    expect(&asks_as(&bob), 3, "may not ask here");
    let stranger = site.pki.stranger("stranger", "Alice").expect("strangers can be made");
    expect(&asks_as(&stranger), 3, "HTTP 403");
    let robot = site.pki.robot("robot", "pilot").expect("robots can be made");
    let proxy =
        site.pki.grid_proxy(&robot, &site.dir.join("proxy"), &["-rfc"]).expect("grid-proxy-init works");
    expect(&site.query_as(&proxy, None, &site.endpoint(), &["--dn", ALICE]), 0, "alice\n");
}

#[test]
fn what_is_unreachable_or_misnamed_is_not_believed() {
    let site = Site::start("unreachable");
    let (cert, key) = (site.pki.host_cert.clone(), site.pki.host_key.clone());
    let at = |endpoint: &str| site.query_as(&cert, Some(&key), endpoint, &["--dn", ALICE]);
    expect(&at("https://127.0.0.1:1/"), 3, "no usable answer: https://127.0.0.1:1/");
    // The certificate names 127.0.0.1 but not 127.0.0.2, to which the kernel routes as well.
    let port = site.address.rsplit(':').next().expect("addresses have ports").to_owned();
    let elsewhere = std::net::TcpListener::bind("127.0.0.2:0").expect("the loopback is wide");
    let via = elsewhere.local_addr().expect("it listens").port();
    std::thread::spawn(move || relay(&elsewhere, &port));
    expect(&at(&format!("https://127.0.0.2:{via}/")), 3, "TLS");
    expect(&at(&format!("https://{}/other", site.address)), 3, "HTTP 404");
    expect(&site.query(&["--dn", "CN=Alice"]), 2, "DN");
    expect(&site.query(&["--dn", ALICE, "--service", "argus"]), 3, "name a proxy with --proxy");
}

/// Passes the bytes of one connection on to the port.
fn relay(listener: &std::net::TcpListener, port: &str) {
    let Ok((mut client, _)) = listener.accept() else {
        return;
    };
    let Ok(mut server) = std::net::TcpStream::connect(format!("127.0.0.1:{port}")) else {
        return;
    };
    let (Ok(mut from), Ok(mut to)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut client, &mut server);
}

#[test]
fn rules_change_on_hangup_and_a_broken_file_changes_nothing() {
    let site = Site::start("reload");
    site.logged("configuration loaded");
    expect(&site.query(&["--dn", BOB]), 1, "unknown");
    let more = rules().replace("[users]", &format!("[users]\n\"{BOB}\" = \"bob\""));
    std::fs::write(&site.config, &more).expect("the file is ours");
    site.signal("HUP");
    site.logged("configuration loaded");
    expect(&site.query(&["--dn", BOB]), 0, "bob");
    std::fs::write(&site.config, more.replace("[bans]", "[bands]")).expect("the file is ours");
    site.signal("HUP");
    let line = site.logged("not reloaded");
    assert!(line.contains("unknown field `bands`") && line.contains("line "), "{line}");
    expect(&site.query(&["--dn", BOB]), 0, "bob");
}

#[test]
fn the_service_ends_cleanly_and_refuses_bad_configurations() {
    let mut site = Site::start("end");
    site.signal("TERM");
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = site.server.try_wait().expect("it is our child") {
            break status;
        }
        assert!(Instant::now() < end, "mapping-server ignores SIGTERM");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
    std::fs::write(&site.config, "[callers]\nalow = []\n").expect("the file is ours");
    let bad = Command::new(built("mapping-server")).arg("--config").arg(&site.config).output();
    expect(&bad.expect("mapping-server starts"), 2, "line 2, column 1: unknown field `alow`");
}

/// Runs `glexec-map` as nobody, as `glexec` runs it under an account of its own.
fn glexec_map(site: &Site, frame: &[u8]) -> Output {
    let program = site.dir.join("glexec-map");
    std::fs::copy(built("glexec-map"), &program).expect("the directory is ours");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("the file is ours");
    let mut child = Command::new(program)
        .uid(65534)
        .gid(65534)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("glexec-map starts");
    // It may refuse before it has read everything.
    let _ = child.stdin.take().expect("it is a pipe").write_all(frame);
    child.wait_with_output().expect("it ends")
}

fn map_request(site: &Site) -> MapRequest {
    let dn = |text: &str| Dn::parse(text).expect("a good name");
    let read = |path: &Path| std::fs::read(path).expect("the file is ours");
    MapRequest {
        service: Service::Gums,
        endpoints: vec![site.endpoint()],
        host_credential: [read(&site.pki.host_cert), read(&site.pki.host_key)].concat(),
        ca_dir: site.pki.ca_dir.clone(),
        timeout: Duration::from_secs(10),
        host: host_name(),
        identity: VerifiedIdentity {
            subject: dn(BOB),
            issuer: dn("/C=XX/O=Test Grid/CN=Test Grid CA"),
            serial: "1001".into(),
            not_after: 0,
            limited: false,
            digest: [0; 32],
            voms: Some(VomsAttributes {
                vo: "cms".into(),
                fqans: vec![Fqan::parse("/cms/Role=pilot/Capability=NULL").expect("a good name")],
                signer: dn("/C=XX/O=Test Grid/CN=voms.test"),
                signer_issuer: dn("/C=XX/O=Test Grid/CN=Test Grid CA"),
                not_after: 0,
            }),
            chain_pem: Vec::new(),
        },
    }
}

#[test]
#[needs(root)]
fn the_child_of_glexec_answers_with_one_frame() {
    let site = Site::start("child");
    let request = map_request(&site);
    let mapped = glexec_map(&site, &request.encode());
    assert_eq!(mapped.status.code(), Some(0), "{}", text(&mapped));
    let expected = Mapping {
        account: Some("cmspilot".into()),
        uid: Some(20017),
        gid: Some(20000),
        groups: vec![20001],
        ..Mapping::default()
    };
    assert_eq!(MapReply::decode(&mapped.stdout), Ok(MapReply::Mapped(expected)));

    let unknown = MapRequest {
        identity: VerifiedIdentity { voms: None, ..request.identity.clone() },
        ..request.clone()
    };
    let denied = glexec_map(&site, &unknown.encode());
    assert_eq!(MapReply::decode(&denied.stdout), Ok(MapReply::Denied(format!("unknown: {BOB}"))));

    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("https://{}/", silent.local_addr().expect("it listens"));
    let slow = MapRequest { endpoints: vec![endpoint], timeout: Duration::from_secs(1), ..request };
    let start = Instant::now();
    let late = glexec_map(&site, &slow.encode());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(matches!(MapReply::decode(&late.stdout), Ok(MapReply::Unavailable(_))), "{}", text(&late));
}

#[test]
#[needs(root)]
fn the_child_of_glexec_refuses_root_and_nonsense() {
    let site = Site::start("refusals");
    let as_root = Command::new(built("glexec-map")).stdin(Stdio::null()).output().expect("glexec-map starts");
    expect(&as_root, 2, "refuses to run as root");
    let good = map_request(&site).encode();
    let huge = vec![b'x'; 2 * helper::MAX_REQUEST];
    for frame in [&b""[..], b"nonsense", &good[..good.len() - 1], &huge] {
        let refused = glexec_map(&site, frame);
        assert!(refused.stdout.is_empty(), "nothing is answered to what was not asked");
        expect(&refused, 3, "malformed frame");
    }
}

/// Starts the service in a machine and waits until it listens.
fn serve_in(m: &Machine) -> (Running, String) {
    let address = format!("127.0.0.1:{}", m.ports().0);
    let rules = format!(
        "[callers]\nallow = [\"/C=XX/O=Test Grid/CN={}\"]\n[users]\n\"{}\" = \"alice\"\n\"{}\" = \"nosuch\"\n[bans]\nusers = [\"{}\"]\n",
        host_name(),
        m.dn("Alice"),
        m.dn("Carol"),
        m.dn("Mallory")
    );
    m.write("/etc/pilotage/mapping-server.toml", "root", 0o644, rules);
    let run = m.command("/usr/sbin/mapping-server").args(["--listen", &address]);
    let mut server = run.spawn();
    let end = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(server.is_running() && Instant::now() < end, "mapping-server does not listen at {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
    (server, format!("https://{address}{PATH}"))
}

#[test]
#[needs(root)]
fn glexec_asks_the_service_and_fails_closed() {
    let m = Machine::builder().pilot("pilot").account("alice").mapping(&["gums"]);
    let m = m.policy_add("[mapping.gums]\nendpoints = [\"@ENDPOINT@\"]\ntimeout = \"5s\"\n").build();
    let (server, endpoint) = serve_in(&m);
    m.edit_policy(|policy| {
        policy.replace("@ENDPOINT@", &endpoint).replace("[mapping]\n", "[mapping]\ncache_ttl = \"0s\"\n")
    });
    let run_as = |name: &str| {
        m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy(name, "pilot")).args(["/usr/bin/id", "-un"]).output()
    };
    assert_eq!(run_as("Alice").ok(), "alice");
    run_as("Mallory").exits(203);
    run_as("Eve").exits(203);
    let unknown_here = run_as("Carol");
    assert!(unknown_here.code() != Some(0), "an account that passwd does not know is no account");
    assert!(m.log().contains("banned"), "the reason of the service reaches the log: {}", m.log());
    drop(server);
    run_as("Alice").exits(203);
}
