//! Acting as another user, for those who are allowed to.

use http::HeaderMap;
use vaquita_api::status::Status;
use vaquita_auth::{User, impersonation::Impersonation};

use crate::server::Server;

/// What the names of all of these headers begin with.
const PREFIX: &str = "impersonate-";

/// Whom a request of `user` with these headers is from: `user`, or the one that they want to and may act as.
pub(crate) fn impersonate(
    server: &Server,
    user: User,
    headers: &HeaderMap,
) -> Result<User, Status> {
    let wanted = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(PREFIX))
        .map(|(name, value)| {
            let value = value.to_str().map_err(|_| {
                Status::bad_request(format!("the value of header {name} is not plain text"))
            })?;
            Ok((name.as_str(), value))
        })
        .collect::<Result<Vec<_>, Status>>()?;
    if wanted.is_empty() {
        return Ok(user);
    }
    let wanted =
        Impersonation::read(wanted).map_err(|error| Status::bad_request(error.to_string()))?;
    let Some(wanted) = wanted else {
        return Ok(user);
    };
    for check in wanted.checks() {
        server.must_be_allowed(&user, &check)?;
    }
    Ok(wanted.user())
}
