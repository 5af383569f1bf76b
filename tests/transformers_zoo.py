"Small transformers of several libraries, with random weights, and what they take"
import timm, torch, transformers
from torch import nn

class Encoder(nn.Module):
    "PyTorch's own encoder between an embedding and a classifier"
    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, **options)
        self.embed, self.encoder, self.head = nn.Linear(8,48), nn.TransformerEncoder(layer, 3), nn.Linear(48,3)
    def forward(self, x): return self.head(self.encoder(self.embed(x)).mean(1))

def hugging(kind, config, **sizes): return getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()

def pictures(n): return lambda: torch.randn(2,3,n,n)

def pixels(n): return lambda: dict(pixel_values=torch.randn(2,3,n,n))

def words():
    "Two sentences of 8 words, the second one shorter"
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1,6:] = 0
    return dict(input_ids=torch.randint(0, 50, (2,8)), attention_mask=mask)

vit = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
bert = dict(vit, vocab_size=50, intermediate_size=96)
swin = dict(image_size=32, patch_size=2, embed_dim=32, depths=[2,2], num_heads=[4,8], window_size=4)
segformer = dict(depths=[2]*4, hidden_sizes=[32,32,64,64], num_attention_heads=[2,2,4,4], decoder_hidden_size=32)

ZOO = { # name -> (model, its inputs, whether its blocks add to what came in)
    'ViT': (lambda: hugging('ViTForImageClassification', 'ViTConfig', **vit, intermediate_size=96, image_size=32,
                            patch_size=8), pixels(32)),
    'DINOv2': (lambda: hugging('Dinov2ForImageClassification', 'Dinov2Config', **vit, image_size=28, patch_size=7),
               pixels(28)),
    'Swin': (lambda: hugging('SwinForImageClassification', 'SwinConfig', **swin), pixels(32)),
    'SegFormer': (lambda: hugging('SegformerForSemanticSegmentation', 'SegformerConfig', **segformer), pixels(64)),
    'BERT': (lambda: hugging('BertForSequenceClassification', 'BertConfig', **bert), words),
    'BERT, masked words': (lambda: hugging('BertForMaskedLM', 'BertConfig', **bert), words),
    'Llama': (lambda: hugging('LlamaForCausalLM', 'LlamaConfig', **dict(bert, num_attention_heads=8),
                              num_key_value_heads=4, max_position_embeddings=32), words),
    'nn.TransformerEncoder': (lambda: Encoder().eval(), lambda: torch.randn(2,6,8)),
    'nn.TransformerEncoder, norm first': (lambda: Encoder(norm_first=True).eval(), lambda: torch.randn(2,6,8)),
}

def timm_model(name, size, **options):
    if timm.is_model(name): # older ones do not know DINOv3
        ZOO[name] = lambda: timm.create_model(name, num_classes=4, img_size=size, **options).eval(), pictures(size)

timm_model('swinv2_tiny_window8_256', 64, window_size=4, embed_dim=48, depths=(2,2), num_heads=(4,4))
timm_model('vit_small_patch16_dinov3', 32, embed_dim=96, depth=3, num_heads=4)
timm_model('eva02_tiny_patch14_224', 28, depth=3, embed_dim=96, num_heads=4)
timm_model('cait_xxs24_224', 32, depth=3, embed_dim=48, num_heads=4)
timm_model('maxvit_nano_rw_256', 64)
timm_model('coatnet_pico_rw_224', 64)
timm_model('twins_svt_small', 64, depths=(1,1,2,2))
