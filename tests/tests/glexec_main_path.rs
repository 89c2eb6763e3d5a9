//! The way every good call takes: a proxy in, the mapped account out, the payload's exit code back.

use end_to_end::contract::site;
use harness::{Machine, Run, need, needs};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// A call with Alice's proxy, made once per machine.
fn as_alice(m: &Machine) -> Run {
    let proxy = "/home/pilot/alice.pem";
    if !Path::new(proxy).exists() {
        fs::rename(m.proxy("Alice", "pilot"), proxy).expect("both are in one home");
    }
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy)
}

#[test]
#[needs(root)]
fn the_payload_runs_as_the_mapped_account_and_nobody_else() {
    let m = site();
    let uid = m.uid("alice");
    let ran = as_alice(&m).arg("/usr/bin/id").output();
    assert_eq!(ran.ok(), format!("uid={uid}(alice) gid={uid}(alice) groups={uid}(alice)"));
    assert_eq!(ran.errors(), "", "success is silent");
    let ids = as_alice(&m).args([
        "/bin/grep",
        "-E",
        "^(Uid|Gid|Groups|CapPrm|CapEff|NoNewPrivs)",
        "/proc/self/status",
    ]);
    let ids = ids.output().ok();
    assert!(ids.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{ids}");
    assert!(ids.contains(&format!("Gid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{ids}");
    assert!(ids.contains("CapPrm:\t0000000000000000") && ids.contains("CapEff:\t0000000000000000"), "{ids}");
    assert!(ids.contains("NoNewPrivs:\t1"), "{ids}");
}

#[test]
#[needs(root)]
fn two_users_get_two_accounts() {
    let m = site();
    let uid_of = |user: &str| {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy(user, "pilot"));
        run.args(["/usr/bin/id", "-u"]).output().ok()
    };
    assert_eq!(uid_of("Alice"), m.uid("alice").to_string());
    assert_eq!(uid_of("Bob"), m.uid("bob").to_string());
    assert_eq!(uid_of("Alice"), m.uid("alice").to_string(), "a second call gives the same account");
}

#[test]
#[needs(root)]
fn exit_codes_mean_what_they_say() {
    let m = site();
    let sh = |script: &str| as_alice(&m).args(["/bin/sh", "-c", script]).output();
    for code in [0, 1, 7, 125, 127, 200, 205, 255] {
        sh(&format!("exit {code}")).exits(code);
    }
    for reserved in [201, 202, 203, 204] {
        sh(&format!("exit {reserved}")).exits(204);
    }
    sh("kill -TERM $$").exits(128 + 15);
    sh("kill -KILL $$").exits(128 + 9);
    m.write("/home/alice/broken", "alice", 0o755, "#!/no/such/interpreter\n");
    as_alice(&m).arg("/home/alice/broken").output().exits(126);
}

#[test]
#[needs(root)]
fn arguments_streams_and_directory_are_passed_on() {
    let m = site();
    let odd = ["", " ", "two words", "--", "-v", "*", "a\nb", "$HOME", "\u{fc}"];
    let ran = as_alice(&m).args(["/usr/bin/printf", "[%s]"]).args(odd).output();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), odd.map(|a| format!("[{a}]")).concat());
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    assert_eq!(as_alice(&m).arg("/bin/cat").input(bytes.clone()).output().stdout, bytes);
    assert_eq!(as_alice(&m).cwd("/var").arg("/bin/pwd").output().ok(), "/var");
    assert_eq!(
        as_alice(&m).cwd("/home/pilot").arg("/bin/pwd").output().ok(),
        "/home/alice",
        "pilot's home is closed"
    );
}

#[test]
#[needs(root)]
fn the_payload_finds_its_own_proxy_and_little_else() {
    let m = site();
    let run = as_alice(&m).env("SECRET", "x").env("LD_PRELOAD", "/x").env("GLEXEC_TEST", "kept");
    let env = run.env("X509_USER_PROXY", "/home/pilot/own").arg("/usr/bin/env").output().ok();
    let value = |name: &str| {
        env.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).unwrap_or_default().to_owned()
    };
    assert_eq!(value("HOME"), "/home/alice");
    assert_eq!([value("USER"), value("LOGNAME")], ["alice", "alice"]);
    assert_eq!(value("GLEXEC_TEST"), "kept");
    assert!(!env.contains("SECRET") && !env.contains("LD_PRELOAD"), "{env}");
    let proxy = value("X509_USER_PROXY");
    assert_ne!(proxy, "/home/pilot/own");
    assert!(!value("PATH").is_empty() && !value("PILOT_SESSION").is_empty(), "{env}");
    let stat = "stat -c '%U %a' \"$X509_USER_PROXY\"; grep -c 'PRIVATE KEY' \"$X509_USER_PROXY\"";
    assert_eq!(as_alice(&m).args(["/bin/sh", "-c", stat]).output().ok(), "alice 600\n2");
}

#[test]
#[needs(root)]
fn every_call_leaves_a_closed_record_with_its_facts() {
    let m = site();
    let session =
        as_alice(&m).args(["/bin/sh", "-c", "echo $PILOT_SESSION; exit 7"]).output().exits(7).text();
    let records = m.records();
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    assert_eq!(record["record_id"], session);
    assert_eq!(record["state"], "closed");
    assert_eq!(record["account"], "alice");
    assert_eq!(record["uid"], m.uid("alice"));
    assert_eq!(record["caller_uid"], m.uid("pilot"));
    assert_eq!(record["payload"]["dn"], m.dn("Alice"));
    assert!(record["exit"].to_string().contains('7'), "{record}");
}

#[test]
#[needs(root)]
fn nothing_of_a_payload_survives_it() {
    let m = site();
    let escape =
        "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; exec >/dev/null 2>&1; sleep 1000' & done; exit 0";
    as_alice(&m).args(["/bin/sh", "-c", escape]).output().ok();
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
}

#[test]
#[needs(root)]
fn version_and_help_need_nothing() {
    let m = site();
    let version = m.glexec().arg("-v").output().ok();
    assert_eq!(version.lines().count(), 1, "{version}");
    assert!(m.glexec().arg("-h").output().ok().contains("glexec"));
    assert!(
        m.command("/usr/sbin/glexec")
            .arg("-V")
            .output()
            .ok()
            .contains("GLEXEC_CONFIG_FILE=\"/etc/glexec.conf\"")
    );
}

/// Enough of an automounter (Linux, `auto_fs.h`): the directory `name` below `at` becomes `shown` when somebody goes through
/// it. The processes of this group are not served; they are taken for parts of it.
fn automount(at: &'static str, name: &str, shown: &'static str) {
    let (mut asked, kernel) = std::io::pipe().expect("a pipe");
    let (fd, group) = (kernel.as_raw_fd(), nix::unistd::getpgrp());
    let options = format!("fd={fd},pgrp={group},minproto=5,maxproto=5,indirect");
    let none = MsFlags::empty();
    mount(Some("test"), at, Some("autofs"), none, Some(options.as_str())).expect("autofs can be mounted");
    let (root, dir) = (fs::File::open(at).expect("it is there"), Path::new(at).join(name));
    fs::create_dir(&dir).expect("parts of it may");
    // The thread ends with the test: who waits for it then gets an error.
    std::thread::spawn(move || {
        // A packet of version 5: the token at 8, the name at 44, which is not asked for.
        let mut packet = [0; 304];
        while asked.read_exact(&mut packet).is_ok() {
            mount(Some(shown), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("it can be shown");
            const AUTOFS_IOC_READY: u64 = 0x9360;
            let token = u32::from_ne_bytes([8, 9, 10, 11].map(|n| packet[n]));
            // SAFETY: the request takes a number.
            unsafe { libc::ioctl(root.as_raw_fd(), AUTOFS_IOC_READY as _, token) };
        }
    });
}

fn autofs() -> bool {
    let known = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\tautofs\n"));
    need::that(known, "the kernel has no autofs")
}

#[test]
#[needs(root, self::autofs)]
fn directories_that_are_mounted_when_looked_for_are_found() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    fs::create_dir("/cvmfs").expect("this machine has none");
    automount("/cvmfs", "grid.example.org", "/etc/grid-security");
    let trust = "[trust]\nca_dir = \"/cvmfs/grid.example.org/certificates\"\n";
    m.edit_policy(|policy| format!("{policy}\n{trust}"));
    let call =
        m.command("/usr/bin/setsid").as_user("pilot").args(["-w", "/usr/sbin/glexec", "/usr/bin/id", "-u"]);
    let ran = call.env("GLEXEC_CLIENT_CERT", &proxy).limit(Duration::from_secs(20)).output();
    assert_eq!(ran.ok(), m.uid("alice").to_string());
}
