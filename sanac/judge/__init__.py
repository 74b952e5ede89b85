"""What says whether a picture is right: detections, GenEval's rules, intervals, distances between sets of pictures."""
