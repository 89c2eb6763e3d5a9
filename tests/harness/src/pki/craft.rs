//! Proxies made by hand: what the real tools refuse to make.

use super::{User, extension, failed, new_key, now, start, tlv, write};
use openssl::asn1::Asn1Object;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509, X509Builder, X509Name};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

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
    /// Digest of the signature.
    pub digest: MessageDigest,
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
            digest: MessageDigest::sha256(),
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
        let key = crafted_key(self.bits, self.cn.bytes().map(usize::from).sum::<usize>() + chain.len())?;
        let mut subject = X509Name::builder()?;
        match &self.base {
            Some(parts) => parts.iter().try_for_each(|(k, v)| subject.append_entry_by_text(k, v))?,
            None => issuer.subject_name().entries().try_for_each(|e| subject.append_entry(e))?,
        }
        subject.append_entry_by_text("CN", &self.cn)?;
        let (from, to) = (now() + self.from, now() + self.to);
        let mut builder = start(&subject.build(), issuer.subject_name(), 77, from, to)?;
        builder.set_pubkey(&key)?;
        self.extend(&mut builder)?;
        builder.sign(&issuer_key, self.digest)?;
        let mut text = builder.build().to_pem()?;
        text.extend(rsa_pem(&key)?);
        for cert in &chain {
            text.extend(cert.to_pem()?);
        }
        write(out, &text, 0o600)?;
        Ok(out.to_owned())
    }

    fn extend(&self, builder: &mut X509Builder) -> io::Result<()> {
        builder
            .append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
        if self.ca {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        }
        let pci = self.pci.map(|oid| (oid, self.critical, self.proxy_cert_info(oid)));
        let pci = pci.into_iter().flat_map(|p| std::iter::repeat_n(p, 1 + usize::from(self.twice)));
        for (oid, critical, der) in pci.chain(self.extra.iter().cloned()) {
            builder.append_extension(extension(oid, critical, &der)?)?;
        }
        Ok(())
    }

    fn proxy_cert_info(&self, oid: &str) -> Vec<u8> {
        let language = Asn1Object::from_str(self.language).map(|o| o.as_slice().to_vec()).unwrap_or_default();
        let policy = tlv(0x30, &tlv(0x06, &language));
        let length = self.path_len.map(|n| tlv(0x02, &[n]));
        let body = match length {
            None => policy,
            Some(length) if oid == PCI_DRAFT => [policy, tlv(0xa1, &length)].concat(),
            Some(length) => [length, policy].concat(),
        };
        tlv(0x30, &body)
    }
}

/// One of a few keys of that length, made once for each process: making one takes a third of a second.
fn crafted_key(bits: u32, which: usize) -> io::Result<PKey<Private>> {
    type Made = BTreeMap<(u32, usize), PKey<Private>>;
    static MADE: Mutex<Made> = Mutex::new(Made::new());
    let slot = (bits, which % 8);
    if let Some(key) = MADE.lock().map_err(failed)?.get(&slot) {
        return Ok(key.clone());
    }
    let key = new_key(bits)?;
    Ok(MADE.lock().map_err(failed)?.entry(slot).or_insert(key).clone())
}

fn rsa_pem(key: &PKeyRef<Private>) -> io::Result<Vec<u8>> {
    Ok(key.rsa()?.private_key_to_pem()?)
}

/// A copy of a proxy file with one bit of its first certificate changed, `back` bytes from the certificate's end.
pub fn tampered(proxy: &Path, out: &Path, back: usize) -> io::Result<PathBuf> {
    let text = fs::read(proxy)?;
    let chain = X509::stack_from_pem(&text)?;
    let mut der = chain.first().ok_or_else(|| failed("no certificate"))?.to_der()?;
    let at = der.len().checked_sub(back).ok_or_else(|| failed("certificate is shorter"))?;
    der[at] ^= 1;
    let body = openssl::base64::encode_block(&der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    let mut changed =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let key = PKey::private_key_from_pem(&text)?;
    changed.push_str(&String::from_utf8_lossy(&rsa_pem(&key)?));
    for cert in &chain[1..] {
        changed.push_str(&String::from_utf8_lossy(&cert.to_pem()?));
    }
    write(out, changed.as_bytes(), 0o600)?;
    Ok(out.to_owned())
}
