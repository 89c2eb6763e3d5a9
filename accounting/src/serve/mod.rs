//! The site's server: worker nodes bring their records, people and programs ask.
//!
//! | looking for | see |
//! |---|---|
//! | the configuration file | [`config`] |
//! | who may see what | [`scope`] |
//! | questions as they stand in a URL | [`question`] |
//! | the store behind it, and what runs on the nodes | [`site`] |
//! | routes and answers | [`http`] |
//! | the description of the interface | [`openapi`] |

pub mod config;
pub mod http;
pub mod openapi;
pub mod question;
pub mod scope;
pub mod site;
