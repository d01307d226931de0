"""What users ask for: transcribe, translate, speak; windows, results and subtitles."""
