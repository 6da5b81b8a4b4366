//! A migration that was added is compiled in, also when no source changed.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
