"""mimo_bench: does every layout of a multimodal model train the same model, and which one is fastest?"""
