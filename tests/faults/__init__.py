"Training that is killed: what runs in the processes that die (`fits`), and who kills them (`harness`)"
