"""What can be timed, in the words of `concept-encoder bench --help`."""

MASK_RATE = 0.15
MODES = {
    "body": "forward and backward of the encoder alone, full rows",
    "pretrain": f"a pretraining step: masked-LM loss at {MASK_RATE:.0%} of the tokens, backward, AdamW; full rows",
    "finetune": "a classification step on texts of real lengths, padded: loss, backward, AdamW",
    "inference": "a forward pass of the encoder alone, full rows",
}
