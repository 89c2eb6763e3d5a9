//! A throw-away grid: a CA with its directory, a VOMS server, a host, people, and proxies of every kind.
//!
//! Good proxies come from the real `grid-proxy-init` and `voms-proxy-fake`; bad ones, which those tools refuse to make, from [`Craft`].

pub mod build;
mod craft;

use build::tlv;
pub use craft::{Craft, INDEPENDENT, INHERIT_ALL, LIMITED, PCI_DRAFT, PCI_RFC, tampered};

use build::{Certificate, Extension, List};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameRef};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
/// The host that the VOMS server claims to be.
pub const VOMS_HOST: &str = "voms.test";

fn failed(what: impl std::fmt::Display) -> io::Error {
    io::Error::other(what.to_string())
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// A certificate with its key, in two files.
#[derive(Debug, Clone)]
pub struct User {
    /// Short name, used for files.
    pub name: String,
    /// One-line subject, as in a `grid-mapfile`.
    pub dn: String,
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM key, mode 0600.
    pub key: PathBuf,
}

/// A CA that can sign and revoke.
struct Authority {
    cert: X509,
    key: PKey<Private>,
    /// Serial numbers, contents octets.
    revoked: Mutex<Vec<Vec<u8>>>,
}

/// The grid in a directory.
pub struct Pki {
    dir: PathBuf,
    /// `X509_CERT_DIR`: CAs, signing policies and revocation lists under both kinds of hash.
    pub ca_dir: PathBuf,
    /// `X509_VOMS_DIR`: LSC files for the VOs `cms` and `dteam`.
    pub voms_dir: PathBuf,
    /// Host certificate for `localhost`, `127.0.0.1`, `::1` and the host's name.
    pub host_cert: PathBuf,
    /// Its key.
    pub host_key: PathBuf,
    ca: Authority,
    voms: User,
    serial: AtomicU32,
}

/// What an end-entity certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Person,
    Host,
}

/// The form of `X509_NAME_oneline` for plain ASCII names.
fn one_line(name: &X509NameRef) -> String {
    let part = |e: &openssl::x509::X509NameEntryRef| {
        let key = e.object().nid().short_name().unwrap_or("?").to_owned();
        format!("/{key}={}", String::from_utf8_lossy(e.data().as_slice()))
    };
    name.entries().map(part).collect()
}

/// A key of 2048 bits that nobody else in this process has.
fn new_key() -> io::Result<PKey<Private>> {
    Ok(PKey::from_rsa(openssl::rsa::Rsa::generate(2048)?)?)
}

/// The identifier of a key, as subjectKeyIdentifier and authorityKeyIdentifier give it: SHA-1 of the key without its
/// algorithm (RFC 5280 4.2.1.2, method 1). The VOMS library takes no other.
fn key_id(key: &PKey<Private>) -> io::Result<Vec<u8>> {
    Ok(openssl::sha::sha1(&key.rsa()?.public_key_to_der_pkcs1()?).to_vec())
}

fn subject_key(key: &PKey<Private>) -> io::Result<Extension> {
    Ok(Extension("2.5.29.14", false, tlv(0x04, &key_id(key)?)))
}

fn authority_key(key: &PKey<Private>) -> io::Result<Extension> {
    Ok(Extension("2.5.29.35", false, tlv(0x30, &tlv(0x80, &key_id(key)?))))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(path);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

impl Authority {
    fn new(parts: &[(&str, &str)]) -> io::Result<Self> {
        let key = new_key()?;
        let name = build::dn(parts);
        let root = Certificate::ca(&name, &name, &key).serial(&[1]).valid(-DAY, 3650 * DAY);
        let cert = X509::from_der(&root.with(subject_key(&key)?).der(&key)?)?;
        Ok(Self { cert, key, revoked: Mutex::new(Vec::new()) })
    }

    /// The names under which this CA's files are looked for.
    fn hashes(&self) -> io::Result<[String; 2]> {
        let der = self.cert.subject_name().to_der()?;
        let old = openssl::hash::hash(MessageDigest::md5(), &der)?;
        let old = u32::from_le_bytes([old[0], old[1], old[2], old[3]]);
        Ok([format!("{:08x}", self.cert.subject_name_hash()), format!("{old:08x}")])
    }

    fn install(&self, dir: &Path, pattern: &str) -> io::Result<()> {
        let dn = one_line(self.cert.subject_name());
        let policy = format!(
            "access_id_CA X509 '{dn}'\npos_rights globus CA:sign\ncond_subjects globus '\"{pattern}\"'\n"
        );
        for hash in self.hashes()? {
            write(&dir.join(format!("{hash}.0")), &self.cert.to_pem()?, 0o644)?;
            write(&dir.join(format!("{hash}.signing_policy")), policy.as_bytes(), 0o644)?;
        }
        self.publish_crl(dir, -DAY, 30 * DAY)
    }

    /// Writes the revocation list, valid from and to these seconds from now.
    fn publish_crl(&self, dir: &Path, from: i64, to: i64) -> io::Result<()> {
        let name = self.cert.subject_name().to_der()?;
        let mut list = List { from, to: Some(to), ..List::new(&name) };
        for serial in self.revoked.lock().map_err(failed)?.iter() {
            list = list.revoking(serial);
        }
        let number = Extension("2.5.29.20", false, tlv(0x02, &[1]));
        let der = list.with(authority_key(&self.key)?).with(number).der(&self.key)?;
        let pem = build::pem("X509 CRL", &der).into_bytes();
        self.hashes()?.iter().try_for_each(|h| write(&dir.join(format!("{h}.r0")), &pem, 0o644))
    }
}

impl Pki {
    /// Makes everything below `dir`: one CA, a VOMS server, a host certificate; about a second.
    pub fn new(dir: &Path) -> io::Result<Pki> {
        let ca_dir = dir.join("certificates");
        let voms_dir = dir.join("vomsdir");
        for made in [dir, &ca_dir, &voms_dir] {
            fs::create_dir_all(made)?;
            fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
        }
        let ca = Authority::new(&[("C", "XX"), ("O", "Test Grid"), ("CN", "Test Grid CA")])?;
        ca.install(&ca_dir, "/C=XX/O=Test Grid/*")?;
        let nobody =
            User { name: String::new(), dn: String::new(), cert: PathBuf::new(), key: PathBuf::new() };
        let mut pki = Pki {
            dir: dir.to_owned(),
            ca_dir,
            voms_dir,
            host_cert: PathBuf::new(),
            host_key: PathBuf::new(),
            ca,
            voms: nobody,
            serial: AtomicU32::new(0x1000),
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
        let host =
            pki.issue("host", &[("C", "XX"), ("O", "Test Grid"), ("CN", &host)], Purpose::Host, 365)?;
        pki.voms =
            pki.issue("voms", &[("C", "XX"), ("O", "Test Grid"), ("CN", VOMS_HOST)], Purpose::Host, 365)?;
        pki.host_cert = host.cert;
        pki.host_key = host.key;
        pki.add_vo("cms")?;
        pki.add_vo("dteam")?;
        Ok(pki)
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One-line subject of the CA.
    pub fn ca_dn(&self) -> String {
        one_line(self.ca.cert.subject_name())
    }

    /// PEM certificate and key of the VOMS server.
    pub fn voms_server(&self) -> &User {
        &self.voms
    }

    /// Lets the VOMS server speak for another VO.
    pub fn add_vo(&self, vo: &str) -> io::Result<()> {
        let lsc = format!("{}\n{}\n", self.voms.dn, self.ca_dn());
        write(&self.voms_dir.join(vo).join(format!("{VOMS_HOST}.lsc")), lsc.as_bytes(), 0o644)
    }

    /// A person: `/C=XX/O=Test Grid/OU=people/CN=<cn>`.
    pub fn user(&self, name: &str, cn: &str) -> io::Result<User> {
        self.subject(name, &[("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", cn)], 365)
    }

    /// A program: `/C=XX/O=Test Grid/OU=robots/CN=<cn>`.
    pub fn robot(&self, name: &str, cn: &str) -> io::Result<User> {
        self.subject(name, &[("C", "XX"), ("O", "Test Grid"), ("OU", "robots"), ("CN", cn)], 365)
    }

    /// A person with that subject, valid for so many days (negative: expired yesterday).
    pub fn subject(&self, name: &str, parts: &[(&str, &str)], days: i64) -> io::Result<User> {
        self.issue(name, parts, Purpose::Person, days)
    }

    /// A person whose CA this grid does not know.
    pub fn stranger(&self, name: &str, cn: &str) -> io::Result<User> {
        let other = Authority::new(&[("C", "XX"), ("O", "Other Grid"), ("CN", "Other CA")])?;
        self.issue_by(&other, name, &[("C", "XX"), ("O", "Other Grid"), ("CN", cn)], Purpose::Person, 365)
    }

    /// A certificate that `user` made, as if a user were a CA; the file holds certificate, key and the user's certificate.
    pub fn issued_by_user(&self, user: &User, name: &str, cn: &str) -> io::Result<PathBuf> {
        let cert = X509::from_pem(&fs::read(&user.cert)?)?;
        let key = PKey::private_key_from_pem(&fs::read(&user.key)?)?;
        let false_ca = Authority { cert, key, revoked: Mutex::new(Vec::new()) };
        let parts = [("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", cn)];
        let made = self.issue_by(&false_ca, name, &parts, Purpose::Person, 365)?;
        let text = [fs::read(&made.cert)?, fs::read(&made.key)?, fs::read(&user.cert)?].concat();
        let out = self.dir.join("user").join(name).join("proxy.pem");
        write(&out, &text, 0o600)?;
        Ok(out)
    }

    fn issue(&self, name: &str, parts: &[(&str, &str)], purpose: Purpose, days: i64) -> io::Result<User> {
        self.issue_by(&self.ca, name, parts, purpose, days)
    }

    fn issue_by(
        &self,
        ca: &Authority,
        file: &str,
        parts: &[(&str, &str)],
        purpose: Purpose,
        days: i64,
    ) -> io::Result<User> {
        let key = new_key()?;
        let (subject, issuer) = (build::dn(parts), ca.cert.subject_name().to_der()?);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let (from, to) = if days < 0 { (-400 * DAY, days * DAY) } else { (-3600, days * DAY) };
        let (server, client) = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2");
        let purposes = if purpose == Purpose::Host { &[client, server][..] } else { &[client] };
        let mut made = Certificate::person(&subject, &issuer, &key)
            .serial(&serial.to_be_bytes()[2..])
            .valid(from, to)
            .with(Extension::extended(purposes))
            .with(subject_key(&key)?)
            .with(authority_key(&ca.key)?);
        if purpose == Purpose::Host {
            made = made.with(alternative_names(parts));
        }
        let cert = X509::from_der(&made.der(&ca.key)?)?;
        let dir = self.dir.join("user").join(file);
        let user = User {
            name: file.to_owned(),
            dn: one_line(cert.subject_name()),
            cert: dir.join("usercert.pem"),
            key: dir.join("userkey.pem"),
        };
        write(&user.cert, &cert.to_pem()?, 0o644)?;
        write(&user.key, &key.private_key_to_pem_pkcs8()?, 0o600)?;
        Ok(user)
    }

    /// Puts the user's certificate on the revocation list.
    pub fn revoke(&self, user: &User) -> io::Result<()> {
        let cert = X509::from_pem(&fs::read(&user.cert)?)?;
        let serial = cert.serial_number().to_bn()?.to_vec();
        self.ca.revoked.lock().map_err(failed)?.push(serial);
        self.ca.publish_crl(&self.ca_dir, -DAY, 30 * DAY)
    }

    /// Writes the revocation list again, valid from and to these seconds from now (both negative: out of date).
    pub fn publish_crl(&self, from: i64, to: i64) -> io::Result<()> {
        self.ca.publish_crl(&self.ca_dir, from, to)
    }

    /// Removes the revocation list.
    pub fn remove_crl(&self) -> io::Result<()> {
        self.ca.hashes()?.iter().try_for_each(|h| fs::remove_file(self.ca_dir.join(format!("{h}.r0"))))
    }

    /// Runs the real `grid-proxy-init` for the user with these options, such as `-rfc`, `-limited`, `-valid 1:00`.
    pub fn grid_proxy(&self, user: &User, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        self.run_proxy_init(&user.cert, &user.key, out, options)
    }

    /// A proxy of the user that ends so many seconds from now (negative: it has ended). The real tools count in minutes.
    pub fn short_proxy(&self, user: &User, out: &Path, seconds: i64) -> io::Result<PathBuf> {
        Craft { to: seconds, from: seconds.min(0) - 300, ..Craft::default() }.below_user(user, out)
    }

    /// Runs the real `grid-proxy-init` with a proxy as issuer.
    pub fn grid_proxy_of_proxy(&self, proxy: &Path, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        self.run_proxy_init(proxy, proxy, out, options)
    }

    fn run_proxy_init(&self, cert: &Path, key: &Path, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        let mut command = Command::new("grid-proxy-init");
        command.arg("-q").arg("-cert").arg(cert).arg("-key").arg(key).arg("-out").arg(out).args(options);
        self.make(command, out)
    }

    /// Runs the real `voms-proxy-fake`: a proxy with an attribute certificate for the VO, signed by the VOMS server.
    pub fn voms_proxy(&self, user: &User, out: &Path, vo: &str, fqans: &[&str]) -> io::Result<PathBuf> {
        self.voms_proxy_with(user, out, vo, fqans, &["-rfc"])
    }

    /// Like [`Pki::voms_proxy`] with other options, such as `-rfc -vomslife 1`.
    pub fn voms_proxy_with(
        &self,
        user: &User,
        out: &Path,
        vo: &str,
        fqans: &[&str],
        options: &[&str],
    ) -> io::Result<PathBuf> {
        let mut command = Command::new("voms-proxy-fake");
        command.arg("-q").arg("-cert").arg(&user.cert).arg("-key").arg(&user.key);
        command.arg("-hostcert").arg(&self.voms.cert).arg("-hostkey").arg(&self.voms.key);
        command.arg("-certdir").arg(&self.ca_dir).arg("-out").arg(out);
        command.args(["-voms", vo, "-uri", &format!("{VOMS_HOST}:15000")]).args(options);
        for fqan in fqans {
            command.args(["-fqan", fqan]);
        }
        self.make(command, out)
    }

    fn make(&self, mut command: Command, out: &Path) -> io::Result<PathBuf> {
        let _ = fs::remove_file(out);
        command
            .env("X509_CERT_DIR", &self.ca_dir)
            .env("X509_VOMS_DIR", &self.voms_dir)
            .env("HOME", &self.dir);
        let ran =
            command.output().map_err(|e| failed(format!("{command:?}: {e}; is the package installed?")))?;
        // grid-proxy-init reports expired or revoked users with a non-zero status after writing the proxy
        if !out.exists() {
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            let more = String::from_utf8_lossy(&ran.stdout).into_owned();
            return Err(failed(format!("{command:?} made no proxy: {said}{more}")));
        }
        fs::set_permissions(out, fs::Permissions::from_mode(0o600))?;
        Ok(out.to_owned())
    }
}

fn alternative_names(parts: &[(&str, &str)]) -> Extension {
    let host = |name: &str| tlv(0x82, name.as_bytes());
    let own = parts.iter().filter(|(key, value)| *key == "CN" && *value != "localhost");
    let mut names = vec![host("localhost"), tlv(0x87, &[127, 0, 0, 1])];
    names.push(tlv(0x87, &std::net::Ipv6Addr::LOCALHOST.octets()));
    names.extend(own.map(|(_, cn)| host(cn)));
    Extension::alternative(&names)
}
