//! Spin applications: what their locked description says, and which component answers a request.
//!
//! Enter at [`Application::from_json`]: an image's configuration of the type `application/vnd.fermyon.spin.application.v1+config`.
//! Everything that an application refers to is named by digest, and is a layer of the same image. [`Routes`] finds the
//! component for a path; [`Values`] are what its variables are where it runs.
//!
//! Nothing here runs anything, or knows of images and clusters.

mod application;
mod hosts;
mod route;
mod variables;

pub use application::{Application, ApplicationError, Component, Content, File};
pub use hosts::{Destination, Hosts};
pub use route::{Match, RouteError, Routes};
pub use variables::{Values, Variable, VariableError, provider_name};
