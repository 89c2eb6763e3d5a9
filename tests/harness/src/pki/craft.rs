//! Proxies made by hand: what the real tools refuse to make.

use super::build::{self, Certificate, Extension, Kind, Sign};
use super::{User, failed, write};
use openssl::pkey::PKey;
use openssl::x509::X509;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// proxyCertInfo of RFC 3820.
pub const PCI_RFC: &str = "1.3.6.1.5.5.7.1.14";
/// proxyCertInfo of the GT3 draft.
pub const PCI_DRAFT: &str = "1.3.6.1.4.1.3536.1.222";
/// Policy language: everything.
pub const INHERIT_ALL: &str = "1.3.6.1.5.5.7.21.1";
/// Policy language: nothing of the issuer's.
pub const INDEPENDENT: &str = "1.3.6.1.5.5.7.21.2";
/// Policy language: Globus limited proxy.
pub const LIMITED: &str = "1.3.6.1.4.1.3536.1.1.1.9";

/// A proxy made by hand; change what shall be wrong.
#[derive(Clone)]
pub struct Craft {
    /// OID of the proxyCertInfo; `None` for a legacy proxy.
    pub pci: Option<&'static str>,
    /// OID of the policy language.
    pub language: &'static str,
    /// Path length constraint.
    pub path_len: Option<u8>,
    /// The proxyCertInfo is critical.
    pub critical: bool,
    /// It stands twice.
    pub twice: bool,
    /// The common name that is added; it also picks the key, so that equal names below one issuer share theirs.
    pub cn: String,
    /// Subject before that name; `None` for the issuer's.
    pub base: Option<Vec<(&'static str, &'static str)>>,
    /// Begin, seconds from now.
    pub from: i64,
    /// End, seconds from now.
    pub to: i64,
    /// RSA key length.
    pub bits: u32,
    /// How it is signed.
    pub sign: Sign,
    /// basicConstraints says CA.
    pub ca: bool,
    /// Extension values to add: OID, critical, DER.
    pub extra: Vec<(&'static str, bool, Vec<u8>)>,
}

impl Default for Craft {
    fn default() -> Self {
        Self {
            pci: Some(PCI_RFC),
            language: INHERIT_ALL,
            path_len: None,
            critical: true,
            twice: false,
            cn: "1234567890".to_owned(),
            base: None,
            from: -300,
            to: 12 * 3600,
            bits: 2048,
            sign: Sign::Sha2(256),
            ca: false,
            extra: Vec::new(),
        }
    }
}

impl Craft {
    /// Makes the proxy below a user's certificate.
    pub fn below_user(&self, user: &User, out: &Path) -> io::Result<PathBuf> {
        self.make(&fs::read(&user.cert)?, &fs::read(&user.key)?, out)
    }

    /// Makes the proxy below the proxy in a file.
    pub fn below_proxy(&self, proxy: &Path, out: &Path) -> io::Result<PathBuf> {
        let text = fs::read(proxy)?;
        self.make(&text, &text, out)
    }

    fn make(&self, chain: &[u8], key: &[u8], out: &Path) -> io::Result<PathBuf> {
        let chain = X509::stack_from_pem(chain)?;
        let issuer = chain.first().ok_or_else(|| failed("no issuer"))?;
        let issuer_key = PKey::private_key_from_pem(key)?;
        let which =
            self.cn.bytes().map(u32::from).sum::<u32>() + u32::try_from(chain.len()).map_err(failed)?;
        let key = build::key(Kind::Rsa(self.bits), 100 + which % 8)?;
        let above = issuer.subject_name().to_der()?;
        let mut proxy = Certificate::proxy(&above, &self.cn, &key).serial(&[77]).valid(self.from, self.to);
        if let Some(parts) = &self.base {
            proxy.subject = build::below(&build::dn(parts), &self.cn);
        }
        proxy.sign = self.sign;
        proxy.extensions = self.extensions();
        let mut made = vec![proxy.der(&issuer_key)?];
        for cert in &chain {
            made.push(cert.to_der()?);
        }
        write(out, build::credential(&made, &key)?.as_bytes(), 0o600)?;
        Ok(out.to_owned())
    }

    fn extensions(&self) -> Vec<Extension> {
        let mut list = vec![Extension::usage(0xa0)];
        if self.ca {
            list.push(Extension::basic(true, None));
        }
        if let Some(oid) = self.pci {
            let Extension(oid, _, value) = Extension::proxy(oid, self.language, self.path_len);
            let info = Extension(oid, self.critical, value);
            list.extend(std::iter::repeat_n(info, 1 + usize::from(self.twice)));
        }
        list.extend(self.extra.iter().cloned().map(|(oid, critical, der)| Extension(oid, critical, der)));
        list
    }
}

/// A copy of a proxy file with one bit of its first certificate changed, `back` bytes from the certificate's end.
pub fn tampered(proxy: &Path, out: &Path, back: usize) -> io::Result<PathBuf> {
    let text = fs::read(proxy)?;
    let chain = X509::stack_from_pem(&text)?;
    let mut der = chain.first().ok_or_else(|| failed("no certificate"))?.to_der()?;
    let at = der.len().checked_sub(back).ok_or_else(|| failed("certificate is shorter"))?;
    der[at] ^= 1;
    let key = PKey::private_key_from_pem(&text)?;
    let mut changed = vec![der];
    for cert in &chain[1..] {
        changed.push(cert.to_der()?);
    }
    write(out, build::credential(&changed, &key)?.as_bytes(), 0o600)?;
    Ok(out.to_owned())
}
