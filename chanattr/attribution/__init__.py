"""The questions: which channels does an image, or a class, need?"""
