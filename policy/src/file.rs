//! Being written.
/// Site policy.
pub struct SitePolicy;
