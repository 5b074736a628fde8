//! Requests for certificates: approved where that is safe, signed where they are approved, deleted when they are old.
//!
//! Three steps look at each request. The first approves what a kubelet asks for as a client, if whoever asks may have that by
//! the cluster's roles. The second signs for the signers that are the cluster's own, with the cluster's authority; without
//! one at hand it does nothing. The third deletes requests of which nothing more will come.

mod authority;
mod requested;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};

use vaquita_reconcile::{
    Context,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

use authority::{Authority, AuthorityError};
use requested::{KUBELET_CLIENT, Requested};

/// How long a request is kept that was dealt with.
const KEEP: Duration = Duration::from_hours(1);
/// How long a request is kept that nobody deals with.
const KEEP_PENDING: Duration = Duration::from_hours(24);

/// Why a request could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Whether the requestor may have it could not be found out.
    #[error("asking whether the requestor may have it")]
    Review(#[source] kube::Error),
    /// The approval could not be written.
    #[error("approving")]
    Approve(#[source] kube::Error),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The certificate could not be written.
    #[error("writing the certificate")]
    Write(#[source] kube::Error),
    /// The request could not be deleted.
    #[error("deleting the request")]
    Delete(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let authority = match context.options.authority.as_ref().map(Authority::new) {
        Some(Err(error)) => {
            tracing::error!(%error, "requests for certificates are not signed");
            None
        }
        Some(Ok(authority)) => Some(authority),
        None => None,
    };
    let controller = Arc::new(Controller {
        requests: context.informers.of(),
        api: Api::all(context.client.clone()),
        authority,
        context: context.clone(),
    });
    if !controller.requests.synced().await {
        return;
    }
    let queue = WorkQueue::new(Pacing::default());
    let requests = queue.clone();
    controller.requests.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            requests.add(change.object().name_any());
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    api: Api<CertificateSigningRequest>,
    authority: Option<Authority>,
}

/// Where a request is on its way.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has decided.
    Pending,
    /// It is to be signed.
    Approved,
    /// Nothing more will come of it since then.
    Done(Timestamp),
}

fn stage(request: &CertificateSigningRequest) -> Stage {
    let created = request
        .creation_timestamp()
        .map_or(Timestamp::UNIX_EPOCH, |at| at.0);
    let status = request.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let since = |type_: &str| {
        let condition = conditions.iter().find(|own| own.type_ == type_)?;
        Some(
            condition
                .last_update_time
                .as_ref()
                .map_or(created, |at| at.0),
        )
    };
    let issued = status
        .certificate
        .is_some_and(|certificate| !certificate.0.is_empty());
    match (since("Denied").or(since("Failed")), since("Approved")) {
        (Some(over), _) => Stage::Done(over),
        (None, Some(approved)) if issued => Stage::Done(approved),
        (None, Some(_)) => Stage::Approved,
        (None, None) => Stage::Pending,
    }
}

impl Reconciler for Controller {
    /// The request's name.
    type Key = String;
    type Error = SyncError;
    const NAME: &'static str = "certificates";

    async fn reconcile(&self, name: &String) -> Result<Next, SyncError> {
        let key = vaquita_reconcile::ObjectKey::new("", name);
        let Some(request) = self.requests.store().get(&key) else {
            return Ok(Next::Wait);
        };
        let now = self.context.now();
        let created = request.creation_timestamp().map_or(now, |at| at.0);
        let (since, keep) = match stage(&request) {
            Stage::Pending => {
                self.approve(&request, now).await?;
                (created, KEEP_PENDING)
            }
            Stage::Approved => {
                self.sign(&request, now).await?;
                (created, KEEP_PENDING)
            }
            Stage::Done(since) => (since, KEEP),
        };
        let age = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        match keep.checked_sub(age).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Next::After(left)),
            None => self.delete(name).await.map(|()| Next::Wait),
        }
    }
}

impl Controller {
    /// Approves what a kubelet asks for as a client, for itself or, where that may be, for another.
    async fn approve(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<(), SyncError> {
        if request.spec.signer_name != KUBELET_CLIENT {
            return Ok(());
        }
        let Ok(requested) = requested::read(request) else {
            return Ok(());
        };
        if requested.suits_kubelet_client(request).is_err() {
            return Ok(());
        }
        let own = request.spec.username.as_deref() == Some(&requested.common_name);
        let ways = [
            (
                "selfnodeclient",
                own,
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            (
                "nodeclient",
                true,
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            ),
        ];
        for (subresource, applies, message) in ways {
            if applies && self.may_have(request, subresource).await? {
                let approved = with_condition(request, "Approved", ("AutoApproved", message), now);
                return self.put("approval", approved, SyncError::Approve).await;
            }
        }
        Ok(())
    }

    async fn may_have(
        &self,
        request: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, SyncError> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                groups: spec.groups.clone(),
                uid: spec.uid.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.context.client.clone());
        let review = api.create(&PostParams::default(), &review).await;
        let review = review.map_err(SyncError::Review)?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }

    async fn sign(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<(), SyncError> {
        let Some(authority) = &self.authority else {
            return Ok(());
        };
        let checked = match requested::read(request) {
            Ok(requested) => match requested.suits_signer(request) {
                None => return Ok(()),
                Some(suits) => suits.map(|()| requested),
            },
            Err(_) if !is_own(&request.spec.signer_name) => return Ok(()),
            Err(error) => Err(error),
        };
        let done = match checked {
            Ok(requested) => Self::signed(authority, request, requested, now)?,
            Err(why) => {
                let why = why.to_string();
                with_condition(request, "Failed", ("SignerValidationFailure", &why), now)
            }
        };
        self.put("status", done, SyncError::Write).await
    }

    fn signed(
        authority: &Authority,
        request: &CertificateSigningRequest,
        requested: Requested,
        now: Timestamp,
    ) -> Result<CertificateSigningRequest, SyncError> {
        let certificate = authority.sign(request, requested, now)?;
        let mut signed = request.clone();
        let status = signed.status.get_or_insert_default();
        status.certificate = Some(ByteString(certificate.into_bytes()));
        Ok(signed)
    }

    async fn put(
        &self,
        subresource: &str,
        request: CertificateSigningRequest,
        failed: fn(kube::Error) -> SyncError,
    ) -> Result<(), SyncError> {
        let (name, params) = (request.name_any(), PostParams::default());
        let put = self
            .api
            .replace_subresource(subresource, &name, &params, &request);
        match put.await {
            Err(error) if !meta::is_not_found(&error) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), SyncError> {
        match self.api.delete(name, &DeleteParams::default()).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Delete(error)),
            _ => Ok(()),
        }
    }
}

fn is_own(signer: &str) -> bool {
    [
        requested::CLIENT,
        KUBELET_CLIENT,
        requested::KUBELET_SERVING,
    ]
    .contains(&signer)
}

/// The request with one condition more.
fn with_condition(
    request: &CertificateSigningRequest,
    type_: &str,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let conditions = &mut request.status.get_or_insert_default().conditions;
    conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
    request
}

#[cfg(test)]
mod tests;
