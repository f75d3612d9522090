//! The servers that are compared.

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This project's.
    Streamward,
    /// Eclipse Mosquitto (MQTT).
    Mosquitto,
    /// nats-server.
    NatsServer,
    /// Written by hand with tonic: `peers/tonic`.
    PlainTonic,
    /// Written by hand for Node: `peers/grpcjs`.
    GrpcJs,
    /// Written by hand with Python's asyncio: `peers/grpcio`.
    Grpcio,
}

impl Kind {
    /// Every server, in the order of the tables.
    pub(crate) const ALL: [Self; 6] =
        [Self::Streamward, Self::NatsServer, Self::Mosquitto, Self::PlainTonic, Self::GrpcJs, Self::Grpcio];

    /// What the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Streamward => "streamward",
            Self::Mosquitto => "mosquitto",
            Self::NatsServer => "nats-server",
            Self::PlainTonic => "plain tonic",
            Self::GrpcJs => "grpc-js",
            Self::Grpcio => "grpcio",
        }
    }
}
