"""A configuration that trains in seconds."""

# its network is one that timm has for tests: trained and saved in a fraction of the time of a preset's
TINY = {
    "model.backbone": "test_efficientnet",
    "model.pretrained": False,
    "model.image_size": 64,
    "model.channels": 8,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
    "data.workers": 0,
    "train.batch_size": 2,
    "train.epochs": 2,
    "train.warmup_steps": 0,
    "train.checkpoint_every": 3,
}
