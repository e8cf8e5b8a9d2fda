//! `completions SHELL`: a script that the shell accepts.

use clap::ValueEnum as _;
use clap_complete::Shell;

use crate::harness::*;

#[tokio::test]
async fn every_shell_gets_a_script_with_every_command() {
    for shell in Shell::value_variants() {
        let name = shell.to_string();
        let script = Cli::bare(&["completions", &name])
            .run()
            .await
            .expect_success();
        for word in ["ride-promo", "serve", "import", "positions", "completions"] {
            assert!(script.contains(word), "{name} lacks {word}");
        }
    }
}

#[tokio::test]
async fn bash_completes_with_its_script() {
    let script = Cli::bare(&["completions", "bash"])
        .run()
        .await
        .expect_success();
    let file = new_dir("completions").join("ride-promo.bash");
    std::fs::write(&file, script).unwrap();
    // As bash does on a tab: the words so far, and which of them is being written.
    let tab = r#"
        bash -n "$1" && source "$1" || exit
        registered=$(complete -p ride-promo) && [[ $registered =~ -F\ ([^ ]+) ]] || exit
        COMP_WORDS=(ride-promo posi) COMP_CWORD=1
        "${BASH_REMATCH[1]}" ride-promo posi ride-promo
        echo "${COMPREPLY[@]}""#;
    let bash = std::process::Command::new("bash")
        .args(["-c", tab, "bash"])
        .arg(&file)
        .output();
    let output = bash.expect("bash is installed");
    let completed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(completed.trim(), "positions", "{output:?}");
}
