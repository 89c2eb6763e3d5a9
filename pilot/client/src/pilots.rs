//! The calls of pilots.

use super::*;

impl Client {
    /// `POST /v1/pilots`.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        self.post("/v1/pilots", registration, 0).await
    }

    /// `POST /v1/pilots/{p}/claim`.
    pub async fn claim(&self, pilot: Uuid, claim: &Claim, wait: u64) -> Result<Claimed, ClientError> {
        self.post(&format!("/v1/pilots/{pilot}/claim?wait={wait}"), claim, wait).await
    }

    /// `GET /v1/blobs/{sha256}`.
    pub async fn blob(&self, sha256: &str) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, &format!("/v1/blobs/{sha256}")), TRANSFER).await
    }

    /// `POST /v1/attempts/{a}/delegation`.
    pub async fn attempt_delegation(
        &self,
        attempt: Uuid,
        request: &CertificateRequest,
    ) -> Result<SignedChain, ClientError> {
        self.post(&format!("/v1/attempts/{attempt}/delegation"), request, 0).await
    }

    /// `POST /v1/pilots/{p}/sync`.
    pub async fn sync(
        &self,
        pilot: Uuid,
        sync: &Heartbeat,
        wait: u64,
    ) -> Result<HeartbeatReply, ClientError> {
        self.post(&format!("/v1/pilots/{pilot}/sync?wait={wait}"), sync, wait).await
    }

    /// `PUT /v1/attempts/{a}/logs/{stream}`.
    pub async fn put_log(
        &self,
        attempt: Uuid,
        stream: &str,
        lease: Uuid,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/attempts/{attempt}/logs/{stream}?lease={lease}&offset={offset}");
        self.send(self.request(Method::PUT, &path).body(bytes), CALL).await.map(|_| ())
    }

    /// `PUT /v1/attempts/{a}/output`.
    pub async fn put_output(&self, attempt: Uuid, lease: Uuid, body: Body) -> Result<(), ClientError> {
        self.transfer(&format!("/v1/attempts/{attempt}/output?lease={lease}"), body).await
    }

    /// `POST /v1/attempts/{a}/result`.
    pub async fn result(&self, attempt: Uuid, result: &AttemptResult) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/attempts/{attempt}/result"), result).await
    }

    /// `POST /v1/results`: many results, each with its own answer.
    pub async fn results(&self, results: &[NamedResult]) -> Result<Vec<ResultAnswer>, ClientError> {
        self.post("/v1/results", &results, 0).await
    }

    /// `POST /v1/pilots/{p}/bye`.
    pub async fn bye(&self, pilot: Uuid, bye: &Bye) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/pilots/{pilot}/bye"), bye).await
    }
}
