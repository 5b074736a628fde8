//! What a new token says.

use super::{
    Bound, BoundObject, Claims, Reference,
    claims::{Legacy, Private},
};
use crate::service_account_name;

/// The shortest time for which a token can be asked for.
pub const MIN_SECONDS: i64 = 600;
/// The longest.
pub const MAX_SECONDS: i64 = 1 << 32;

/// What pods ask for who do not say for how long. Their tokens live on for a year, for programs that read the file once.
const FOR_PODS: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request<'r> {
    /// Who issues it.
    pub issuer: &'r str,
    /// The account's namespace.
    pub namespace: &'r str,
    /// The account.
    pub account: Reference,
    /// For whom.
    pub audiences: Vec<String>,
    /// For how long, in seconds.
    pub seconds: i64,
    /// What it is bound to besides.
    pub bound: Option<BoundObject>,
    /// When it is issued, in seconds since 1970.
    pub now: i64,
    /// A fresh UUID.
    pub id: String,
}

impl Request<'_> {
    /// The claims of the token. A token for a pod that is only for the API server itself lives longer than was asked for.
    pub fn claims(self) -> Claims {
        let is_for_pod = |bound: &BoundObject| bound.kind == Bound::Pod && self.seconds == FOR_PODS;
        let lasts = self.bound.as_ref().is_some_and(is_for_pod)
            && self.audiences == [self.issuer.to_owned()];
        let mut kubernetes = Private {
            namespace: self.namespace.to_owned(),
            warnafter: lasts.then_some(self.now + self.seconds),
            ..Private::default()
        };
        if let Some(bound) = self.bound {
            let place = match bound.kind {
                Bound::Pod => &mut kubernetes.pod,
                Bound::Node => &mut kubernetes.node,
                Bound::Secret => &mut kubernetes.secret,
                Bound::ServiceAccount => &mut kubernetes.serviceaccount,
            };
            *place = Some(bound.reference);
            if bound.kind == Bound::Pod {
                kubernetes.node = bound.node;
            }
        }
        let sub = service_account_name(self.namespace, &self.account.name);
        kubernetes.serviceaccount = Some(self.account);
        let seconds = if lasts { YEAR } else { self.seconds };
        Claims {
            aud: self.audiences,
            exp: Some(self.now + seconds),
            iat: Some(self.now),
            iss: self.issuer.to_owned(),
            jti: self.id,
            kubernetes,
            nbf: Some(self.now),
            sub,
            legacy: Legacy::default(),
        }
    }
}
