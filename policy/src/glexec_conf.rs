//! Being written.
/// glexec.conf.
pub struct GlexecConf;
