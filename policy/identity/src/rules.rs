//! How strict a site is about the certificates of a chain.

/// The rules of `[trust]` that one site loosens and another one tightens; `glexec`, its verifier and `site-policy` share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainRules {
    /// Take proxies of GT2 (legacy), which are known by their name alone.
    pub allow_legacy: bool,
    /// Take signatures with SHA-1 on certificates, revocation lists and VOMS attributes.
    pub allow_sha1: bool,
    /// Shortest RSA key of CAs and end-entity certificates, bits.
    pub min_rsa_bits: u32,
    /// Shortest RSA key of proxies, bits.
    pub min_proxy_rsa_bits: u32,
}

impl Default for ChainRules {
    fn default() -> Self {
        Self { allow_legacy: false, allow_sha1: false, min_rsa_bits: 2048, min_proxy_rsa_bits: 1024 }
    }
}
