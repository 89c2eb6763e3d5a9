//! A small site in a temporary directory, for the tests of the built program.

use identity::{Dn, Fqan, Mapping, Refusal, RefusalKind, VerifiedIdentity, VomsAttributes};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// Held while a program is written or started: a process forked in between would inherit the descriptor that the
/// program is written through, and nobody could execute it (`ETXTBSY`, `execve(2)`).
static STARTING: Mutex<()> = Mutex::new(());

fn output(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn().unwrap();
    drop(starting);
    child.wait_with_output().unwrap()
}

/// Files below one directory that everybody may enter: children run under another account.
pub struct Site {
    pub dir: TempDir,
}

impl Site {
    /// A site where whoever runs the tests may call, and Alice maps to `nobody`.
    pub fn new() -> Self {
        let site = Self { dir: TempDir::new().unwrap() };
        fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        site.write("glexec.conf", &format!("[glexec]\nuser_white_list = {}\n", me()));
        site.write("grid-mapfile", "\"/CN=Alice\" nobody\n");
        site.write("ban", "\"/CN=Mallory\"\n");
        site.policy("");
        site.write("proxy", "the stand-in for the verifier does not read it\n");
        site.mode("proxy", 0o600);
        site.verifier_says(&Ok(alice()));
        site
    }

    /// Writes the policy with further lines at its end.
    pub fn policy(&self, more: &str) {
        let (map, ban) = (self.path("grid-mapfile"), self.path("ban"));
        let text = format!(
            "[accounts]\nallow = [\"nobody\"]\ngids = [\"65534\"]\n\
             [mapping]\norder = [\"grid-mapfile\"]\ngrid_mapfile = {map:?}\n\
             [bans]\ndn_file = {ban:?}\n{more}"
        );
        self.write("policy.toml", &text);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(self.path(name), text).unwrap();
    }

    pub fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Puts a program in the verifier's place that reads its question and always gives this answer.
    pub fn verifier_says(&self, reply: &helper::VerifyReply) {
        // A verifier tells the digest of what it was given.
        let proxy = hmac_sha256::Hash::hash(&fs::read(self.path("proxy")).unwrap());
        let reply = reply.clone().map(|who| VerifiedIdentity { digest: proxy, ..who });
        fs::write(self.path("frame"), helper::encode_verify_reply(&reply)).unwrap();
        let script =
            format!("#!/bin/sh\n/bin/cat >/dev/null\nexec /bin/cat {}\n", self.path("frame").display());
        self.write("glexec-verify", &script);
        self.mode("glexec-verify", 0o755);
    }

    /// Puts programs in the places of both helpers that keep their question in `asked` and answer as they did before; the
    /// mapping client names `nobody`.
    pub fn helpers_keep_questions(&self) {
        let asked = self.path("asked");
        fs::create_dir(&asked).unwrap();
        fs::set_permissions(&asked, fs::Permissions::from_mode(0o777)).unwrap();
        let nobody = Mapping { account: Some("nobody".into()), ..Mapping::default() };
        fs::write(self.path("mapped"), helper::MapReply::Mapped(nobody).encode()).unwrap();
        for (name, reply) in [("glexec-verify", "frame"), ("glexec-map", "mapped")] {
            let (asked, reply) = (asked.join(name), self.path(reply));
            let script =
                format!("#!/bin/sh\n/bin/cat >{}\nexec /bin/cat {}\n", asked.display(), reply.display());
            self.write(name, &script);
            self.mode(name, 0o755);
        }
    }

    pub fn check(&self, more: &[&str]) -> Output {
        self.run(&["check", &text(&self.path("policy.toml"))], more)
    }

    pub fn explain(&self, more: &[&str]) -> Output {
        let (policy, proxy) = (text(&self.path("policy.toml")), text(&self.path("proxy")));
        self.run(&["explain", "--policy", &policy, "--proxy", &proxy], more)
    }

    /// Explains what would happen to these names.
    pub fn explain_names(&self, policy: &str, more: &[&str]) -> Output {
        self.run(&["explain", "--policy", policy], more)
    }

    /// Runs `site-policy` with the site's policy and nothing else.
    pub fn plain(&self, command: &str, more: &[&str]) -> Output {
        let mut run = Command::new(env!("CARGO_BIN_EXE_site-policy"));
        run.arg(command).arg("--policy").arg(self.path("policy.toml")).args(more);
        output(&mut run)
    }

    pub fn services(&self) -> Output {
        self.plain("services", &[])
    }

    fn run(&self, args: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_site-policy"));
        command.args(args).arg("--glexec-conf").arg(self.path("glexec.conf"));
        command.arg("--libexec").arg(self.dir.path()).args(more);
        output(&mut command)
    }
}

/// The account that runs the tests.
pub fn me() -> String {
    let output = output(Command::new("id").arg("-un"));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn alice() -> VerifiedIdentity {
    VerifiedIdentity {
        subject: Dn::parse("/CN=Alice").unwrap(),
        issuer: Dn::parse("/CN=CA").unwrap(),
        serial: "0a".into(),
        not_after: 4_000_000_000,
        limited: false,
        digest: [7; 32],
        voms: Some(VomsAttributes {
            vo: "cms".into(),
            fqans: vec![Fqan::parse("/cms/Role=NULL/Capability=NULL").unwrap()],
            signer: Dn::parse("/CN=voms").unwrap(),
            signer_issuer: Dn::parse("/CN=CA").unwrap(),
            not_after: 4_000_000_000,
        }),
        chain_pem: Vec::new(),
    }
}

pub fn refusal(kind: RefusalKind, reason: &str) -> helper::VerifyReply {
    Err(Refusal { kind, reason: reason.into() })
}
