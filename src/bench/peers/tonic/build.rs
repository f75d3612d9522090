//! Compiles the contract.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = "../../../../proto";
    println!("cargo:rerun-if-changed={protos}");
    let descriptors =
        protox::compile(["streamward/v1/message.proto", "streamward/v1/session.proto"], [protos])?;
    // The client is the test's; with a transport it would have two methods `connect`.
    tonic_prost_build::configure().bytes(".streamward.v1").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
